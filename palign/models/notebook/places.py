"""Where people stand between pure types, in the plane."""

import numpy as np

__all__ = ["place_people"]


def place_people(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of people and of the pure types in the plane.

    Two types span a line and three a triangle, both exactly. More stand on a circle, types that people mix beside one
    another, and a person is the mean of the corners by their weights.

    Args:
        weights: (n_annotators, n_types), rows sum to 1.

    Returns:
        (n_annotators, 2) and (n_types, 2).
    """
    n_types = weights.shape[1]
    if n_types == 2:
        corners = np.array([[0.0, 0.0], [1.0, 0.0]])
    elif n_types == 3:
        corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 3**0.5 / 2]])
    else:
        angles = np.pi / 2 - 2 * np.pi * np.arange(n_types) / n_types
        corners = np.empty((n_types, 2))
        corners[_neighbours(weights)] = 0.58 * np.c_[np.cos(angles), np.sin(angles)]
    return weights @ corners, corners


def _neighbours(weights: np.ndarray) -> list[int]:
    """Numbers of the types (n_types,), each beside the one of those left that people mix with it most."""
    mixed = weights.T @ weights
    order = [int(weights.sum(axis=0).argmax())]
    while len(order) < weights.shape[1]:
        left = [k for k in range(weights.shape[1]) if k not in order]
        order.append(max(left, key=lambda k: (mixed[order[-1], k], -k)))
    return order
