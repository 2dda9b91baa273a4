"""A million annotators: trained, saved and read again within memory (minutes; run by `make slow`)."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.models.pal import PALRewardModel
from palign.trainers.reward.head_fit import HeadFitOptions, fit_head

N_PEOPLE = 1_000_000


@pytest.mark.slow
def test_a_million_annotators_train_and_save_within_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(2000, 16)).astype(np.float32)
    people = np.arange(N_PEOPLE)
    first = rng.integers(2000, size=N_PEOPLE)
    second = (first + rng.integers(1, 2000, size=N_PEOPLE)) % 2000
    likes_first = np.where(people % 2, vectors[first, 0] > vectors[second, 0], vectors[first, 1] > vectors[second, 1])
    rows = Preferences.from_arrays(people, np.where(likes_first, first, second), np.where(likes_first, second, first))
    model = PALRewardModel.from_embeddings(hidden_size=16, n_prototypes=8, annotators=AnnotatorIndex(people))
    assert model.people.logits.sparse
    data = model.row_tensors(rows, vectors)
    before = model.people.logits.weight.detach().clone()
    loss = fit_head(model.head, model.people, data, HeadFitOptions(epochs=1, batch_size=8192), seed=0)
    assert loss < np.log(2)
    moved = (model.people.logits.weight != before).any(1)
    assert bool(moved.all())
    model.save_pretrained(tmp_path)
    again = PALRewardModel.from_pretrained(tmp_path)
    assert len(again.annotators) == N_PEOPLE
    assert torch.equal(again.people.logits.weight, model.people.logits.weight)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 * 2**20  # KiB: 8 GiB
