"""Which pair next: of planted people, and what is never asked."""

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.questions import PANEL, different_pairs, next_questions

VECTORS = np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0.01, 0], [0, 0.01]], dtype=np.float32)
OPPOSED, ALIKE, DULL = (0, 1), (2, 3), (4, 5)


@pytest.fixture(scope="module")
def model() -> PALRewardModel:
    """Two types: they disagree on the first coordinate and agree on the second."""
    model = PALRewardModel.from_embeddings(
        hidden_size=2, annotators=AnnotatorIndex(["a", "b"]), n_prototypes=2, preference_dim=2
    )
    rewards = torch.tensor([[3.0, 3.0], [-3.0, 3.0]])

    class Linear(torch.nn.Module):
        """A head whose scores can be told by hand: w · rewards · x."""

        reads_prompts, margin_is_linear, n_prototypes = False, True, 2

        def forward(self, items: torch.Tensor, weights: torch.Tensor, prompts: object = None) -> torch.Tensor:
            return (items @ rewards.T * weights[:, None]).sum(-1)

        def scores_for_all(self, items: torch.Tensor, weights: torch.Tensor, prompts: object = None) -> torch.Tensor:
            return items @ rewards.T @ weights.T

    model.head = Linear()
    model.people.store(torch.tensor([[0.99, 0.01], [0.01, 0.99]]))
    model.people.freeze_population()
    return model


def rows_of(pairs: list[tuple[int, int]], who: str = "x") -> Preferences:
    """Pairs of vectors, the first one chosen."""
    first, second = np.array(pairs).T
    return Preferences.from_arrays([who] * len(pairs), first, second)


def items_of(pairs: Preferences, indices: torch.Tensor) -> list[tuple[int, ...]]:
    return [tuple(sorted(pairs.item_indices[row].tolist())) for row in indices.tolist()]


def test_the_pair_on_which_types_disagree_comes_first(model: PALRewardModel) -> None:
    pairs = different_pairs(rows_of([ALIKE, DULL, OPPOSED]))
    chosen = next_questions(model, pairs, 3, embeddings=VECTORS)
    assert list(chosen) == ["newcomer"]
    assert items_of(pairs, chosen["newcomer"].indices)[0] == OPPOSED
    assert float(chosen["newcomer"].information[0]) > 0.4  # of log 2 = .69
    assert float(chosen["newcomer"].information[1:].sum()) < 0.05


def test_nobody_is_asked_again_and_an_answer_is_heeded(model: PALRewardModel) -> None:
    """Who answered the telling pair is placed: a second pair like it tells little, to a newcomer much."""
    vectors = np.concatenate([VECTORS, VECTORS[:2] * 1.1])
    pairs = different_pairs(rows_of([OPPOSED, ALIKE, (6, 7)]))
    answers = rows_of([(1, 0)], who="ana")  # in the other order: the same pair
    chosen = next_questions(model, pairs, 1, annotator_ids=["ana", "ben"], answers=answers, embeddings=vectors)
    assert OPPOSED not in items_of(pairs, chosen["ana"].indices)
    assert float(chosen["ana"].information[0]) < 0.5 * float(chosen["ben"].information[0])
    together = next_questions(
        model, pairs, 2, annotator_ids=["ana", "ben"], answers=answers, together=True, embeddings=vectors
    )
    assert list(together) == [PANEL] and OPPOSED not in items_of(pairs, together[PANEL].indices)


def test_a_tie_is_not_asked_again(model: PALRewardModel) -> None:
    pairs = different_pairs(rows_of([OPPOSED, ALIKE]))
    chosen = next_questions(model, pairs, 2, annotator_ids=["x"], asked=rows_of([OPPOSED]), embeddings=VECTORS)
    assert items_of(pairs, chosen["x"].indices) == [ALIKE]
    with pytest.raises(ValueError, match="All 2 pairs were asked of 'x' before. Give further pairs"):
        next_questions(model, pairs, 2, annotator_ids=["x"], asked=rows_of([OPPOSED, ALIKE]), embeddings=VECTORS)


def test_pairs_are_different_and_their_order_says_nothing() -> None:
    texts = [f"answer {number}" for number in range(40)]
    rows = [{"annotator_id": "a", "prompt": "p", "chosen": one, "rejected": other} for one, other in
            zip(texts[:20], texts[20:], strict=True)]  # fmt: skip
    ranking = {"annotator_id": "b", "prompt": "q", "completions": ["x", "y", "z"]}
    prefs = Preferences.from_rows([*rows, *rows, ranking])
    pairs = different_pairs(prefs, seed=1)
    assert len(pairs) == 20 + 3  # each once, and the three pairs of the ranking
    chosen_first = [pairs.items[first][1] in texts[:20] for first, _ in pairs.item_indices[:20].tolist()]
    assert 3 < sum(chosen_first) < 17
    assert len(different_pairs(prefs, max_pairs=5)) == 5


def test_what_cannot_be_asked(model: PALRewardModel) -> None:
    with pytest.raises(ValueError, match="0 pairs and 1 people"):
        next_questions(model, rows_of([OPPOSED]).select([]), 1, embeddings=VECTORS)
    three = Preferences.from_rows([{"annotator_id": "a", "completion_indices": [0, 1, 2]}], embeddings=6)
    with pytest.raises(ValueError, match="Row 0 of pairs has 3 items; make pairs of it by different_pairs"):
        next_questions(model, three, 1, embeddings=VECTORS)
