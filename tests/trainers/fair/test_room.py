"""How much one policy can give all: by hand, and of the two built-in populations."""

import numpy as np
import pytest

from palign.trainers.fair.room import Looks, room_of


def test_opposed_tastes_by_hand() -> None:
    """Types' policies serve the other type at relative regret 2: a lottery of halves has 1 for both, nothing over the
    reference; the compromise of the table gives .1."""
    room = room_of(np.array([[1.0, 0.9], [1.0, 0.8]]), np.array([[0.0, 2.0], [2.0, 0.0]]))
    assert (room.policy, room.single, room.lottery, room.looks) == (1, pytest.approx(0.1), 0.0, Looks.OPPOSED)


def test_shared_tastes_by_hand() -> None:
    """Drawing a type's policy by halves leaves half of the gain; the second policy leaves both types .8 of theirs."""
    room = room_of(np.array([[1.0, 0.2], [1.0, 0.1]]), np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert (room.single, room.lottery, room.looks) == (pytest.approx(0.8), pytest.approx(0.5), Looks.SHARED)


def test_what_lies_between_is_unclear_and_no_gain_is_none() -> None:
    assert room_of([[1.0, 0.6]], [[0.0]]).looks is Looks.UNCLEAR
    assert room_of([[1.0, float("nan")]], [[0.0]]) is None
