"""Parts are disjoint, whole and of the size asked for; nothing is in both that may not be."""

import numpy as np
import pytest

from palign.data.preferences import Preferences
from palign.data.splits import hold_out, split_by_annotator, split_by_item, split_by_prompt, split_by_row

SPLITS = [split_by_annotator, split_by_prompt, split_by_row]


@pytest.fixture
def prefs() -> Preferences:
    """40 people × 10 rows, the row's number in a column; 20 prompts."""
    rows = np.arange(400)
    return Preferences.from_arrays(
        rows % 40, rows, rows + 400, prompt_index=rows // 20, columns={"row": rows, "person": rows % 40}
    )


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_two_parts_make_the_whole(prefs: Preferences, split, fraction: float) -> None:
    first, second = split(prefs, fraction=fraction, seed=3)
    numbers = first.column("row").tolist() + second.column("row").tolist()
    assert sorted(numbers) == list(range(400)) and len(second) == pytest.approx(400 * fraction, abs=14)
    again = split(prefs, fraction=fraction, seed=3)[1].column("row").tolist()
    other = split(prefs, fraction=fraction, seed=4)[1].column("row").tolist()
    assert again == second.column("row").tolist() != other


def test_by_annotator_nobody_is_in_both(prefs: Preferences) -> None:
    seen, unseen = split_by_annotator(prefs, fraction=0.25, seed=0)
    assert not set(seen.annotator_ids) & set(unseen.annotator_ids) and len(unseen.annotators()) == 10


def test_by_prompt_no_prompt_is_in_both(prefs: Preferences) -> None:
    first, second = split_by_prompt(prefs, fraction=0.25, seed=0)
    assert not set(first.prompt_indices) & set(second.prompt_indices) and len(set(second.prompt_indices)) == 5


def test_by_row_everybody_gives_their_share(prefs: Preferences) -> None:
    first, second = split_by_row(prefs, fraction=0.2, seed=0)
    assert np.bincount(second.column("person").astype(int)).tolist() == [2] * 40
    # 0.25 of ten rows is 2 or 3, and over forty people about 100
    uneven = np.bincount(split_by_row(prefs, fraction=0.25, seed=0)[1].column("person").astype(int))
    assert set(uneven) == {2, 3} and uneven.sum() == pytest.approx(100, abs=12)
    assert len(set(first.column("row")[:50] // 40)) > 1  # rows keep their order
    assert (np.diff(first.column("row").astype(int)) > 0).all()


def test_by_row_nobody_is_left_without_a_row_to_learn_from() -> None:
    lonely = Preferences.from_arrays(["a", "b", "b", "c", "c", "c"], np.arange(6), np.arange(6) + 6)
    for seed in range(20):
        first, _ = split_by_row(lonely, fraction=0.9, seed=seed)
        assert first.annotators().ids == ["a", "b", "c"]


def test_by_row_copies_stay_together_and_count_once() -> None:
    """Ten people judge ten pairs each, every pair three times, once of them the other way round."""
    person, pair, copy = (index.ravel() for index in np.indices((10, 10, 3)))
    better, worse = np.where(copy == 2, (pair + 10, pair), (pair, pair + 10))
    order = np.random.default_rng(0).permutation(300)
    shown = {"judgement": (person * 10 + pair)[order], "person": person[order]}
    copies = Preferences.from_arrays(person[order], better[order], worse[order], columns=shown)
    first, second = split_by_row(copies, fraction=0.2, seed=3)
    assert not set(first.column("judgement")) & set(second.column("judgement"))
    assert np.bincount(second.column("person").astype(int)).tolist() == [6] * 10  # two pairs of each, three times
    one = Preferences.from_arrays(["a"] * 4 + ["b"] * 3, [0] * 4 + [2, 4, 6], [1] * 4 + [3, 5, 7])
    assert all("a" in split_by_row(one, fraction=0.9, seed=s)[0].annotators() for s in range(9))


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5])
def test_a_fraction_that_is_none(prefs: Preferences, split, fraction: float) -> None:
    with pytest.raises(ValueError, match="share of the second part, strictly between 0 and 1"):
        split(prefs, fraction=fraction, seed=0)


def test_too_little_to_split() -> None:
    one = Preferences.from_arrays(["a", "a"], [0, 1], [2, 3])
    with pytest.raises(ValueError, match="split by annotator needs at least two of them; these rows have 1"):
        split_by_annotator(one, fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="split by prompt needs at least two"):
        split_by_prompt(one, fraction=0.5, seed=0)
    with pytest.raises(ValueError, match="one judgement, and it is trained on: none is left"):
        split_by_row(Preferences.from_arrays(["a", "b"], [0, 1], [2, 3]), fraction=0.5, seed=0)


def votes(n_people: int = 12, n_items: int = 12) -> Preferences:
    """Everybody says yes to half of the items and no to the others, as all pairs of a yes over a no."""
    rng, rows = np.random.default_rng(0), []
    for person in range(n_people):
        order = rng.permutation(n_items)
        rows += [
            {"annotator_id": f"p{person}", "prompt": "?", "chosen": f"item {a}", "rejected": f"item {b}"}
            for a in order[: n_items // 2]
            for b in order[n_items // 2 :]
        ]
    return Preferences.from_rows(rows)


def judged_items(prefs: Preferences) -> set[tuple[str, str]]:
    return {
        (person, prefs.items[item][1])
        for person, items in zip(prefs.annotator_ids, prefs.item_indices, strict=True)
        for item in items[items >= 0]
    }


def test_pairs_made_of_votes_are_held_out_by_item() -> None:
    rows = votes()
    held = hold_out(rows, fraction=0.2, seed=0)
    assert judged_items(held.train).isdisjoint(judged_items(held.evaluation))
    assert len(held.evaluation) > 0 and "by item" in held.sentence
    n_across = len(rows) - len(held.train) - len(held.evaluation)
    assert f"{n_across:,} of {len(rows):,} comparisons, which compare an item" in held.sentence
    assert set(held.train.annotator_ids) == set(rows.annotator_ids)


def test_rows_without_a_shared_item_are_held_out_by_row() -> None:
    rows = Preferences.from_rows(
        [{"annotator_id": f"p{i % 5}", "prompt": f"{i}", "chosen": "a", "rejected": "b"} for i in range(50)]
    )
    held, parts = hold_out(rows, fraction=0.2, seed=3), split_by_row(rows, fraction=0.2, seed=3)
    assert held.train.to_rows() == parts[0].to_rows() and held.evaluation.to_rows() == parts[1].to_rows()
    assert "no two judgements of one annotator share an item" in held.sentence


def test_a_row_of_votes_is_cut() -> None:
    row = {"prompt": "?", "completions": [f"item {i}" for i in range(8)], "ratings": [1, 1, 1, 1, 0, 0, 0, 0]}
    rows = Preferences.from_rows([{"annotator_id": f"p{i}"} | row for i in range(6)])
    first, second = split_by_item(rows, fraction=0.3, seed=0)
    assert judged_items(first).isdisjoint(judged_items(second)) and len(second) > 0
    for part in (first, second):
        for record in part.to_rows():
            if "ratings" in record:  # a yes still stands above a no
                pairs = zip(record["completions"], record["ratings"], strict=True)
                liked = {int(text.split()[1]) < 4 for text, rating in pairs if rating == max(record["ratings"])}
                assert liked == {True}


def test_nothing_to_hold_out_is_an_error() -> None:
    rows = Preferences.from_rows([{"annotator_id": "p", "prompt": "?", "chosen": "a", "rejected": "b"}])
    with pytest.raises(ValueError, match="one judgement, and it is trained on: none is left"):
        split_by_item(rows, fraction=0.5, seed=0)
