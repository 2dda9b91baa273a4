"""The text population: attributes and utilities worked by hand, opposed tastes, shares, and rows that say who."""

import numpy as np
import pytest

from palign.data.preferences import Preferences
from palign.data.synthetic_text import (
    TASTES,
    gold_utility,
    language_model_rows,
    make_prompts,
    make_text_population,
    preference_rows,
    text_attributes,
    topic_of,
    write_completion,
)


def test_attributes_by_hand() -> None:
    found = text_attributes("Perhaps the the garden is lovely, lovely and great")
    # words: perhaps the the garden is lovely lovely and great; distinct cheerful: lovely, great; repeats: the, lovely
    assert (found.n_cheerful, found.n_hedges, found.n_words, found.n_repeats, found.is_finished) == (2, 1, 9, 2, False)


@pytest.mark.parametrize(
    ("text", "type_name", "expected"),
    [
        ("lovely and great!", "cheerful", 2 * 1.0 + -1.0 * (3 - 8) / 10),  # 2.5
        ("lovely and great!", "careful", 2 * -0.8),
        ("perhaps the garden might be open.", "careful", 2 * 1.2),
        ("perhaps the garden might be open.", "cheerful", 2 * -0.7 + 0.2),
        ("the garden is open", "thorough", 2.0 * (4 - 8) / 10 - 0.5),  # no final stop
        ("open open.", "careful", -0.5),  # one repeat
        ("", "careful", -3.0),
        (" !?", "thorough", -3.0),
    ],
)
def test_gold_utility_by_hand(text: str, type_name: str, expected: float) -> None:
    assert gold_utility(text, type_name) == pytest.approx(expected)


def test_shared_tastes_have_diminishing_returns() -> None:
    """Three words, two of them cheerful: 1.38 · 1.25 + .3 · .5 to bright, as much as any text; a third cheerful word
    adds nothing. "maybe." is one hedge in one word: 1.2 to cautious. Length stops counting at fourteen words."""
    assert gold_utility("sunny and great!", "bright") == pytest.approx(1.875)
    assert gold_utility("sunny great happy!", "bright") == gold_utility("sunny and great!", "bright")
    assert gold_utility("maybe.", "cautious") == pytest.approx(1.2)
    assert gold_utility("maybe it seems new.", "cautious") == pytest.approx(1.5)
    assert gold_utility("a b " * 7 + ".", "detailed") == pytest.approx(2.25 * 0.6)
    assert gold_utility("a b " * 9 + ".", "detailed") == pytest.approx(2.25 * 0.6)


def test_gold_utility_cannot_be_pumped() -> None:
    """More than two cheerful words, or more than twenty words, are worth nothing more."""
    assert gold_utility("lovely great happy.", "cheerful") == gold_utility("lovely great cold.", "cheerful")
    assert gold_utility("a b " * 10 + "c.", "thorough") == gold_utility("a b " * 40 + "c.", "thorough")


def test_no_text_pleases_everybody() -> None:
    """Of two thousand texts, none is in the best tenth of all three types: one policy cannot serve them all."""
    texts = [row["completion"] for row in language_model_rows(2000)]
    utilities = np.array(
        [[gold_utility(text, name) for name in ("cheerful", "thorough", "careful")] for text in texts]
    )
    is_among_best = utilities >= np.quantile(utilities, 0.9, axis=0)
    assert is_among_best.any(0).all()
    assert not is_among_best.all(1).any()


def test_shares_are_dealt_exactly_and_types_are_known() -> None:
    population = make_text_population(60, seed=3)
    counts = {name: sum(population.type_of(i) == name for i in population.annotator_ids) for name in TASTES}
    assert counts == dict.fromkeys(TASTES, 0) | {"cheerful": 30, "thorough": 18, "careful": 12}
    assert make_text_population(7, shares=(0.9, 0.05, 0.05)).weights.sum(0).min() == 1  # nobody is left out


def test_mixtures_lie_on_the_simplex_and_mix_the_gold() -> None:
    population = make_text_population(20, concentration=1.0, seed=1)
    assert population.weights.shape == (20, 3)
    assert np.allclose(population.weights.sum(1), 1)
    assert ((population.weights > 0.5).sum(1) == 1).all()
    person, text = population.annotator_ids[4], "perhaps lovely."
    by_hand = population.weights[4] @ [gold_utility(text, name) for name in population.type_names]
    assert population.gold(text, person) == pytest.approx(by_hand)


def test_rows_are_preferences_and_follow_the_taste() -> None:
    population = make_text_population(12, seed=2)
    rows = preference_rows(population, n_per_annotator=30, seed=5)
    assert len(rows) == 12 * 30
    assert all(
        row["chosen"] != row["rejected"] and row["type"] == population.type_of(row["annotator_id"]) for row in rows
    )
    for row in rows[:20]:
        margin = population.gold(row["chosen"], row["annotator_id"]) - population.gold(
            row["rejected"], row["annotator_id"]
        )
        assert row["gold_margin"] == pytest.approx(margin)
    assert np.mean([row["gold_margin"] > 0 for row in rows if abs(row["gold_margin"]) > 1]) > 0.95
    preferences = Preferences.from_rows(rows)
    assert len(preferences) == len(rows)
    assert list(preferences.columns["type"][:3]) == [row["type"] for row in rows[:3]]
    assert rows == preference_rows(population, n_per_annotator=30, seed=5)  # a seed is a seed


def test_completions_speak_of_the_topic() -> None:
    rng = np.random.default_rng(0)
    prompts = make_prompts()
    assert len(set(prompts)) == len(prompts) == 80
    for prompt in prompts:
        other_topics = {topic_of(p) for p in prompts} - {topic_of(prompt)}
        assert not other_topics.intersection(write_completion(prompt, rng).replace("!", ".").replace(".", " ").split())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"types": ("cheerful", "grumpy"), "shares": (0.5, 0.5)}, "grumpy"),
        ({"shares": (0.5, 0.5, 0.5)}, "sum to 1"),
        ({"shares": (0.5, 0.5)}, "one for each"),
        ({"n_annotators": 2}, "below the number of types"),
    ],
)
def test_bad_populations(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_text_population(**{"n_annotators": 10, **changes})


def test_unknown_people_types_and_topics() -> None:
    with pytest.raises(ValueError, match="not one of the 5 people"):
        make_text_population(5).gold("x", "nobody")
    with pytest.raises(ValueError, match="not a type"):
        gold_utility("x", "grumpy")
    with pytest.raises(ValueError, match="none of the topics"):
        topic_of("what is the time?")
