"""The best single policy: texts by hand, against what is written, and against a script that shares no code."""

import numpy as np
import pytest

from palign.data.synthetic_optimum import best_single_policy, writable_attributes
from palign.data.synthetic_text import POPULATIONS, language_model_rows, text_attributes
from tests.worlds.scripts import load_script


def test_what_is_written_is_writable() -> None:
    writable = set(writable_attributes())
    for row in language_model_rows(2000, seed=7):
        found = text_attributes(row["completion"])
        assert found.n_repeats or (found.n_cheerful, found.n_hedges, found.n_words) in writable
    assert {(2, 0, 3), (1, 0, 4), (0, 1, 5), (0, 2, 6), (1, 0, 10)} <= writable  # "lovely and great!" …
    assert (3, 0, 3) not in writable and (0, 0, 2) not in writable


@pytest.mark.parametrize("name", POPULATIONS)
def test_the_optimum_is_that_of_another_programme(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The script writes every text of a small vocabulary out, counts words, and asks scipy."""
    best = best_single_policy(POPULATIONS[name].types)
    assert best.value == pytest.approx(load_script("check_best_policy").main()[name], abs=1e-9)
    assert best.by_type.min() == pytest.approx(best.value, abs=1e-12)
    assert sum(best.texts.values()) == pytest.approx(1)
    assert name in capsys.readouterr().out


def test_the_shared_optimum_by_hand() -> None:
    """With two cheerful words and two hedges only length is in dispute: bright has 1.725 − .03 (n − 8), detailed
    .525 + .225 (n − 8). They meet at n − 8 = 1.2 / .255, at 1.58382; texts of 12 and of 14 words are mixed."""
    assert best_single_policy(POPULATIONS["shared"].types).value == pytest.approx(1.725 - 0.03 * 1.2 / 0.255)


def test_regret_and_utility_agree_where_all_can_have_as_much() -> None:
    """The best text of each shared type is worth the same, so that least worst regret is greatest worst utility."""
    best = best_single_policy(POPULATIONS["shared"].types)
    assert best.most == pytest.approx([1.875] * 3)
    assert np.max(best.most - best.by_type) == pytest.approx(1.875 - best.value)


def test_one_type_has_its_best_text_and_names_are_checked() -> None:
    assert best_single_policy(("careful",)).value == pytest.approx(2.4)
    with pytest.raises(ValueError, match="grumpy"):
        best_single_policy(("careful", "grumpy"))
