"""EM on frozen embeddings before adapters exist: features by linear algebra, planted people found, K chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palign.data.preferences import Preferences
from palign.functional.partitions import type_accuracy
from palign.models.completions import TokenizedItems
from palign.models.tiny import make_tiny_tokenizer
from palign.trainers.mixture import start as module
from palign.trainers.mixture.start import given_start, linear_start
from palign.trainers.mixture_dpo_config import MixtureDPOConfig

HIDDEN = 6


def config(tmp_path: Path, **options: Any) -> MixtureDPOConfig:
    return MixtureDPOConfig(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", n_restarts=3, **({"n_permutations": 0} | options)
    )


def population(
    n_annotators: int, n_rows: int, *, n_types: int = 2, seed: int = 0
) -> tuple[Preferences, np.ndarray, np.ndarray]:
    """Best of three by noisy utility along one direction for each type; states, rows and true types."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(60, HIDDEN)).astype(np.float32)
    taste = np.array([[3, 0, 0, 0, 0, 0], [-3, 0, 0, 0, 0, 0], [0, 3, 0, 0, 0, 0]][:n_types], dtype=float)
    truth = np.arange(n_annotators) % n_types
    rows = []
    for person in range(n_annotators):
        for _ in range(n_rows):
            items = rng.choice(60, size=3, replace=False)
            utility = states[items] @ taste[truth[person]] + rng.gumbel(size=3)
            items = items[np.argsort(-utility)]
            rows.append({"annotator_id": person, "completions": [f"{i}" for i in items], "n_ranked": 1})
    prefs = Preferences.from_rows(rows)
    order = [int(text) for _, text in prefs.items]
    return prefs, states[order], truth


def start(prefs: Preferences, states: np.ndarray, args: MixtureDPOConfig) -> module.LinearStart:
    people = prefs.annotators()
    index = torch.from_numpy(people.indices(prefs.annotator_ids))
    return linear_start(prefs, states, index, len(people), args)


# the fit


def test_planted_people_are_found(tmp_path: Path) -> None:
    prefs, states, truth = population(24, 8)
    found = start(prefs, states, config(tmp_path, n_types=2))
    assert found.n_types == 2 and found.choice == []
    assert found.log_likelihoods.shape == found.responsibilities.shape == (24, 2)
    assert type_accuracy(found.responsibilities.argmax(1), torch.from_numpy(truth)) == 1.0
    torch.testing.assert_close(found.responsibilities.sum(1), torch.ones(24, dtype=torch.float64))
    # nats summed over eight best-of-three votes: better than chance under one's own type, worse under the other
    own = found.log_likelihoods.max(1).values
    assert own.mean() > 8 * np.log(1 / 3) > found.log_likelihoods.min(1).values.mean()


def test_the_head_scores_items_that_it_was_not_fitted_on(tmp_path: Path) -> None:
    """Items of everybody's own draw: the type that is placed on a side prefers new items of that side."""
    prefs, states, truth = population(24, 8)
    found = start(prefs, states, config(tmp_path, n_types=2))
    assert found.rewards is not None
    new = np.random.default_rng(7).normal(size=(500, HIDDEN)).astype(np.float32)
    rewards = found.rewards(new, None)
    assert rewards.shape == (500, 2)
    likes_it = int(
        found.responsibilities[truth == 0].mean(0).argmax()
    )  # of planted type 0, whose taste is +3 along it
    signs = np.corrcoef(new[:, 0], rewards.T.numpy())[0, 1:]
    assert signs[likes_it] > 0.8 and signs[1 - likes_it] < -0.8


def test_states_in_other_units_say_the_same(tmp_path: Path) -> None:
    prefs, states, _ = population(16, 6)
    args = config(tmp_path, n_types=2)
    first, second = (start(prefs, x, args).responsibilities for x in (states, states * 1000))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_clusters_are_hard(tmp_path: Path) -> None:
    prefs, states, truth = population(24, 8)
    found = start(prefs, states, config(tmp_path, n_types=2, types_from="cluster"))
    assert set(found.responsibilities.unique().tolist()) == {0.0, 1.0}
    assert type_accuracy(found.responsibilities.argmax(1), torch.from_numpy(truth)) > 0.9


@pytest.mark.parametrize("n_types", [1, 2])
def test_auto_finds_the_number(tmp_path: Path, n_types: int) -> None:
    prefs, states, _ = population(16, 10, n_types=n_types)
    found = start(prefs, states, config(tmp_path, n_types=None, max_types=2))
    assert found.n_types == n_types
    assert [row["n_types"] for row in found.choice] == [1, 2]
    assert (found.log_likelihoods is None) == (n_types == 1)


def test_one_type_needs_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit_linear_mixture", lambda *a, **k: pytest.fail("fitted"))
    prefs, states, _ = population(3, 2)
    found = start(prefs, states, config(tmp_path, n_types=1))
    assert found.responsibilities.tolist() == [[1.0]] * 3 and found.log_likelihoods is None


def test_the_head_is_asked_whether_there_are_types(tmp_path: Path) -> None:
    prefs, states, _ = population(12, 5)
    for n_permutations, names in ((0, []), (2, ["permutation_test"])):
        found = start(prefs, states, config(tmp_path, n_types=2, n_permutations=n_permutations)).checks
        assert [c["name"] for c in found] == ["restart_stability", *names, "length_confounder"]
        assert all({"name", "verdict", "value", "message"} <= check.keys() for check in found)


def test_what_the_head_doubts_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    prefs, states, _ = population(12, 5, n_types=1)
    found = start(prefs, states, config(tmp_path, n_types=2, n_permutations=3)).checks
    doubted = [f"{check['name']}: {check['message']}" for check in found if check["verdict"] != "ok"]
    assert any(words.startswith("permutation_test: ") for words in doubted)
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == doubted


@pytest.mark.parametrize("n_types", ["4", "5"])
def test_as_many_types_as_half_the_people_leave_the_features_together(tmp_path: Path, n_types: str) -> None:
    """Nine people: five types cannot be fitted on the four that are left when the others are held out."""
    rng, words = np.random.default_rng(0), "red blue green tall small quick calm warm cold old new bright".split()
    said = [[" " + " ".join(rng.choice(words, 4)) for _ in range(2)] for _ in range(54)]
    prefs = Preferences.from_rows(
        [{"annotator_id": i % 9, "prompt": f"q{i}", "chosen": a, "rejected": b} for i, (a, b) in enumerate(said)]
    )
    tokenizer = make_tiny_tokenizer([text for _, text in prefs.items])
    states = rng.normal(size=(len(prefs.items), HIDDEN)).astype(np.float32)
    people = prefs.annotators()
    found = linear_start(
        prefs, states, torch.from_numpy(people.indices(prefs.annotator_ids)), 9, config(tmp_path, n_types=n_types),
        TokenizedItems.of(prefs, tokenizer, max_length=32),
    )  # fmt: skip
    assert found.n_types == int(n_types)


def test_the_seed_decides(tmp_path: Path) -> None:
    prefs, states, _ = population(12, 4)
    first, again = (start(prefs, states, config(tmp_path, n_types=2, seed=5)) for _ in range(2))
    assert torch.equal(first.responsibilities, again.responsibilities)


# handed in


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list])
def test_given_responsibilities_are_taken_as_they_are(tmp_path: Path, kind: Any) -> None:
    prefs, _, _ = population(3, 2)
    gamma = [[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]]
    found = given_start(kind(gamma), prefs, config(tmp_path, types_from="given"))
    assert found.responsibilities.tolist() == gamma and found.responsibilities.dtype == torch.float64
    assert given_start(None, prefs, config(tmp_path)) is None


@pytest.mark.parametrize(
    ("gamma", "types_from", "message"),
    [
        (None, "given", "types_from is 'given' and responsibilities are missing"),
        (np.ones((3, 1)), "em", "types_from is 'em' and responsibilities are given"),
        (np.ones((2, 1)), "given", r"\(2, 1\); \(3, n_types\) is needed"),
        (np.ones(3), "given", r"\(3,\); \(3, n_types\)"),
        (np.full((3, 2), 0.4), "given", "sum to 1"),
        (np.tile([1.5, -0.5], (3, 1)), "given", "0 or more"),
        (np.tile([np.nan, 1.0], (3, 1)), "given", "0 or more"),
    ],
)
def test_given_responsibilities_are_checked(tmp_path: Path, gamma: Any, types_from: str, message: str) -> None:
    prefs, _, _ = population(3, 2)
    with pytest.raises(ValueError, match=message):
        given_start(gamma, prefs, config(tmp_path, types_from=types_from))


def test_former_names_are_taken_with_a_sentence(caplog: pytest.LogCaptureFixture) -> None:
    for former, now in (("CheapStart", "LinearStart"), ("CheapHead", "LinearHead"), ("cheap_start", "linear_start")):
        assert getattr(module, former) is getattr(module, now)
        assert f"{former} is a former name, taken for this version only; it now is {now}." in caplog.text
    with pytest.raises(AttributeError, match="no attribute 'cheaper'"):
        module.cheaper  # noqa: B018
