"""Positions within groups."""

import numpy as np

from palign.functional.evidence.positions import position_within


def test_positions_within_groups() -> None:
    """Groups of 2, 0 and 3, one after another."""
    assert position_within(np.array([2, 0, 3])).tolist() == [0, 1, 0, 1, 2]
    assert position_within(np.array([], dtype=np.int64)).tolist() == []
