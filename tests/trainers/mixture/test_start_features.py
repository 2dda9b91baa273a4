"""What the linear head reads: directions in which items of one row differ, by linear algebra done apart."""

import numpy as np
import pytest
import torch

from palign.data.preferences import Preferences
from palign.models.completions import TokenizedItems
from palign.trainers.mixture import start_features as module
from palign.trainers.mixture.start_features import state_projection, token_projection


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
    found = state_projection(rows, states, 64)(states)
    assert found.shape == (len(rows.items), 3) and found.dtype == torch.float64
    within = differences(rows, found.numpy())
    np.testing.assert_allclose(within.T @ within / len(within), np.eye(3), atol=1e-6)


def test_the_first_components_are_kept() -> None:
    rows = ragged()
    states = np.random.default_rng(1).normal(size=(len(rows.items), 5)).astype(np.float32)
    within = differences(rows, states.astype(np.float64))
    _, singular, axes = np.linalg.svd(within, full_matrices=False)
    expected = states @ axes[:2].T / (singular[:2] / np.sqrt(len(within)))
    found = state_projection(rows, states, 2)(states).numpy()
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_what_a_prompt_gives_to_all_its_items_does_not_choose_the_directions() -> None:
    rows = ragged()
    rng = np.random.default_rng(2)
    states = rng.normal(size=(len(rows.items), 4))
    shift = rng.normal(size=(2, 4)) * 20
    moved = states + shift[[prompt for prompt, _ in rows.items]]
    first, second = (differences(rows, state_projection(rows, x, 3)(x).numpy()) for x in (states, moved))
    np.testing.assert_allclose(np.abs(first), np.abs(second), atol=1e-4)


def test_directions_without_variance_are_dropped() -> None:
    rows = ragged()
    states = np.random.default_rng(0).normal(size=(len(rows.items), 4)).astype(np.float16)
    states[:, 1:3] = 7.0
    found = state_projection(rows, states, 64)(states)
    assert found.shape[1] == 2 and bool(torch.isfinite(found).all())


def test_states_that_say_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="same hidden state.*max_length"):
        state_projection(ragged(), np.ones((len(ragged().items), 4)), 8)


def tokens(*texts: list[int]) -> TokenizedItems:
    """Items of one prompt token (0) and these completion tokens."""
    ids = [[0, *text] for text in texts]
    return TokenizedItems(
        np.array([i for text in ids for i in text], dtype=np.int32),
        np.cumsum([len(text) for text in ids]),
        np.ones(len(ids), dtype=np.int64),
        0,
    )


def test_token_features_are_those_of_a_dense_decomposition() -> None:
    rows, rng = ragged(), np.random.default_rng(0)
    said = [rng.integers(1, 9, size=6).tolist() for _ in rows.items]
    dense = np.zeros((len(said), 9))
    for row, text in enumerate(said):
        dense[row, text] = 1  # the set of tokens, not how often; the prompt's own is not among them
    counts = np.maximum(dense.sum(0), 1)
    dense = dense * np.log(len(said) / counts)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    within = differences(rows, dense)
    _, singular, axes = np.linalg.svd(within, full_matrices=False)
    expected = dense @ axes[:3].T / (singular[:3] / np.sqrt(len(within)))
    found = token_projection(rows, tokens(*said), 3)(tokens(*said)).numpy()
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-8)


def test_token_features_do_not_depend_on_chance() -> None:
    rows = ragged()
    said = tokens(*(np.random.default_rng(1).integers(1, 9, size=(len(rows.items), 5)).tolist()))
    assert torch.equal(token_projection(rows, said, 3)(said), token_projection(rows, said, 3)(said))


def test_a_projection_reads_tokens_that_training_never_saw() -> None:
    rows = ragged()
    said = tokens([1, 2], *(np.random.default_rng(1).integers(1, 9, size=(len(rows.items) - 1, 5)).tolist()))
    projection = token_projection(rows, said, 3)
    table = projection(said)
    again = projection(tokens([1, 2], [19, 1, 2], [19]))
    torch.testing.assert_close(again[0], table[0])
    torch.testing.assert_close(again[1], table[0])  # what was never seen counts for nothing
    assert again[2].abs().max() == 0
