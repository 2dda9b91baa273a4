"""What the set-up of a PAL reward says of newcomers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from palign.data.preferences import Preferences
from palign.pipelines.reward import RewardSetup


@pytest.mark.parametrize(
    "scores, wanted",
    [([1.0, 2.0, 0.0], 1.0), ([2.0, 0.0, 1.0], 0.5), ([0.0, 1.0, 1.0], 0.25)],
)
def test_newcomers_are_judged_by_all_pairs_that_they_order(scores: list[float], wanted: float) -> None:
    """Two items rated 5 above one rated 1: which of the two comes first in the row is no answer."""
    row = {"annotator_id": "new", "completion_indices": [0, 1, 2], "ratings": [5, 5, 1]}
    rows = Preferences.from_rows([row] * 4, embeddings=3)
    fit = SimpleNamespace(ids=["new"], weights=torch.ones(1, 1))
    trainer: Any = SimpleNamespace(
        model=SimpleNamespace(fit_annotators=lambda *_, **__: fit),
        predict_scores=lambda judged, weights: torch.tensor([scores]).expand(len(judged), 3),
    )
    setup = RewardSetup.__new__(RewardSetup)
    setup.newcomers, setup.embeddings, setup.trains_backbone = (rows, rows), torch.eye(3).numpy(), True
    setup.script = SimpleNamespace(newcomer_answers=[2], fit_method="posterior")
    setup.args = SimpleNamespace(seed=0)
    assert setup.newcomer_accuracies(trainer) == {"newcomers/2/accuracy": pytest.approx(wanted)}
