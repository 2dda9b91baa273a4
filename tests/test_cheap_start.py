"""EM on frozen embeddings before adapters exist: features by linear algebra, planted people found, K chosen."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palign.data.preferences import Preferences
from palign.functional.partitions import type_accuracy
from palign.trainers import cheap_start as module
from palign.models.item_features import state_features as reward_features
from palign.trainers.cheap_start import cheap_start, given_start
from palign.trainers.mixture_dpo_config import MixtureDPOConfig

HIDDEN = 6


def config(tmp_path: Path, **options: Any) -> MixtureDPOConfig:
    return MixtureDPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", n_restarts=3, **options)


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


def start(prefs: Preferences, states: np.ndarray, args: MixtureDPOConfig) -> module.CheapStart:
    people = prefs.annotators()
    index = torch.from_numpy(people.indices(prefs.annotator_ids))
    return cheap_start(prefs, states, index, len(people), args)


# features


def ragged() -> Preferences:
    rows = [
        {"annotator_id": 1, "prompt": "p", "completions": ["a", "b", "c"]},
        {"annotator_id": 1, "prompt": "p", "chosen": "d", "rejected": "a"},
        {"annotator_id": 2, "prompt": "q", "completions": ["a", "b", "c", "d"]},
        {"annotator_id": 2, "prompt": "q", "chosen": "c", "rejected": "d"},
    ]
    return Preferences.from_rows(rows)


def differences(rows: Preferences, values: np.ndarray) -> np.ndarray:
    """Every item of a row less the mean of its row."""
    parts = [values[own[own >= 0]] for own in rows.item_indices]
    return np.concatenate([part - part.mean(0) for part in parts])


@pytest.mark.parametrize("at_once", [4096, 3])
def test_features_have_unit_variance_within_rows(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    rows = ragged()
    states = np.random.default_rng(0).normal(size=(len(rows.items), 3)) * [1, 10, 100]
    found = reward_features(rows, states, 64)
    assert found.shape == (len(rows.items), 3) and found.dtype == torch.float64
    within = differences(rows, found.numpy())
    np.testing.assert_allclose(within.T @ within / len(within), np.eye(3), atol=1e-6)


def test_the_first_components_are_kept() -> None:
    rows = ragged()
    states = np.random.default_rng(1).normal(size=(len(rows.items), 5)).astype(np.float32)
    within = differences(rows, states.astype(np.float64))
    _, singular, axes = np.linalg.svd(within, full_matrices=False)
    expected = states @ axes[:2].T / (singular[:2] / np.sqrt(len(within)))
    found = reward_features(rows, states, 2).numpy()
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_what_a_prompt_gives_to_all_its_items_does_not_choose_the_directions() -> None:
    rows = ragged()
    rng = np.random.default_rng(2)
    states = rng.normal(size=(len(rows.items), 4))
    shift = rng.normal(size=(2, 4)) * 20
    moved = states + shift[[prompt for prompt, _ in rows.items]]
    first, second = (differences(rows, reward_features(rows, x, 3).numpy()) for x in (states, moved))
    np.testing.assert_allclose(np.abs(first), np.abs(second), atol=1e-4)


def test_directions_without_variance_are_dropped() -> None:
    rows = ragged()
    states = np.random.default_rng(0).normal(size=(len(rows.items), 4)).astype(np.float16)
    states[:, 1:3] = 7.0
    found = reward_features(rows, states, 64)
    assert found.shape[1] == 2 and bool(torch.isfinite(found).all())


def test_states_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="same hidden state.*max_length"):
        reward_features(ragged(), np.ones((len(ragged().items), 4)), 8)


# the fit


def test_planted_people_are_found(tmp_path: Path) -> None:
    prefs, states, truth = population(24, 8)
    found = start(prefs, states, config(tmp_path, n_types="2"))
    assert found.n_types == 2 and found.choice == []
    assert found.log_likelihoods.shape == found.responsibilities.shape == (24, 2)
    assert type_accuracy(found.responsibilities.argmax(1), torch.from_numpy(truth)) == 1.0
    torch.testing.assert_close(found.responsibilities.sum(1), torch.ones(24, dtype=torch.float64))
    # nats summed over eight best-of-three votes: better than chance under one's own type, worse under the other
    own = found.log_likelihoods.max(1).values
    assert own.mean() > 8 * np.log(1 / 3) > found.log_likelihoods.min(1).values.mean()


def test_states_in_other_units_say_the_same(tmp_path: Path) -> None:
    prefs, states, _ = population(16, 6)
    args = config(tmp_path, n_types="2")
    first, second = (start(prefs, x, args).responsibilities for x in (states, states * 1000))
    torch.testing.assert_close(first, second, atol=1e-3, rtol=0)


def test_clusters_are_hard(tmp_path: Path) -> None:
    prefs, states, truth = population(24, 8)
    found = start(prefs, states, config(tmp_path, n_types="2", types_from="cluster"))
    assert set(found.responsibilities.unique().tolist()) == {0.0, 1.0}
    assert type_accuracy(found.responsibilities.argmax(1), torch.from_numpy(truth)) > 0.9


@pytest.mark.parametrize("n_types", [1, 2])
def test_auto_finds_the_number(tmp_path: Path, n_types: int) -> None:
    prefs, states, _ = population(16, 10, n_types=n_types)
    found = start(prefs, states, config(tmp_path, n_types="auto", max_types=2))
    assert found.n_types == n_types
    assert [row["n_types"] for row in found.choice] == [1, 2]
    assert (found.log_likelihoods is None) == (n_types == 1)


def test_one_type_needs_no_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fit_linear_mixture", lambda *a, **k: pytest.fail("fitted"))
    prefs, states, _ = population(3, 2)
    found = start(prefs, states, config(tmp_path, n_types="1"))
    assert found.responsibilities.tolist() == [[1.0]] * 3 and found.log_likelihoods is None


def test_the_seed_decides(tmp_path: Path) -> None:
    prefs, states, _ = population(12, 4)
    first, again = (start(prefs, states, config(tmp_path, n_types="2", seed=5)) for _ in range(2))
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
