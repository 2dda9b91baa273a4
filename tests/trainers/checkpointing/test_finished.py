"""What a baseline scored is read back for the same options and rows, and for no others."""

from pathlib import Path

import numpy as np

from palign.trainers.checkpointing.finished import keep_finished, options_key, read_finished
from tests.worlds.colour import planted


def test_scores_come_back_for_the_same_options_and_rows(tmp_path: Path) -> None:
    rows, scores = planted(), np.arange(6.0).reshape(3, 2)
    key = options_key({"beta": 0.5}, rows)
    assert read_finished(tmp_path, key) is None
    keep_finished(tmp_path, key, scores, 7.5)
    found, seconds = read_finished(tmp_path, options_key({"beta": 0.5}, planted()))
    np.testing.assert_array_equal(found, scores)
    assert seconds == 7.5
    for other in (options_key({"beta": 0.4}, rows), options_key({"beta": 0.5}, planted(seed=1))):
        assert read_finished(tmp_path, other) is None
