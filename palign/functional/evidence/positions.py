"""Where an entry stands within its group, of groups that lie one after another."""

import numpy as np

__all__ = ["position_within"]


def position_within(sizes: np.ndarray) -> np.ndarray:
    """(sum of sizes,) int64: 0 … size − 1 for each group in turn.

    Args:
        sizes: (n_groups,) int64, 0 or more.
    """
    return np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
