"""What types think of completions: cells asked for, processes sharing the work, evidence of rows by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from palign.data.preferences import Preferences
from palign.models.adapters import TypePolicies, add_type_adapters
from palign.models.completions import TokenizedItems
from palign.models.type_scores import implicit_rewards, row_log_likelihoods, type_logps
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.lora import lora


@pytest.fixture(scope="module")
def policies() -> TypePolicies:
    model = add_type_adapters(colour_lm(), lora(), 3, seed=0)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.5)
    return TypePolicies(model)


@pytest.fixture(scope="module")
def items() -> TokenizedItems:
    return TokenizedItems.of(planted(n_annotators=4, n_rows=5), colour_tokenizer())


def test_only_cells_that_were_asked_for_are_computed(policies: TypePolicies, items: TokenizedItems) -> None:
    everything = type_logps(policies, items, np.ones((len(items), 3), dtype=bool), batch_size=4)
    assert everything.dtype == np.float64 and np.isfinite(everything).all()
    assert np.abs(everything[:, 0] - everything[:, 1]).max() > 1e-3
    wanted = np.random.default_rng(0).random((len(items), 3)) < 0.4
    wanted[:, 1] = False
    part = type_logps(policies, items, wanted, batch_size=3)
    assert (np.isnan(part) == ~wanted).all()
    np.testing.assert_allclose(part[wanted], everything[wanted], atol=1e-4)
    assert np.isnan(type_logps(policies, items, np.zeros_like(wanted))).all()


def test_processes_share_the_work_and_lose_none_of_it(policies: TypePolicies, items: TokenizedItems) -> None:
    wanted = np.ones((len(items), 3), dtype=bool)
    shares = [type_logps(policies, items, wanted, batch_size=4, rank=rank, n_ranks=3) for rank in range(3)]
    known = np.stack([~np.isnan(share) for share in shares])
    assert (known.sum(0) == 1).all()  # every cell by one process
    whole = type_logps(policies, items, wanted, batch_size=4)
    np.testing.assert_array_equal(np.nansum(shares, axis=0), whole)


@pytest.mark.parametrize("mode", [True, False])
def test_the_mode_is_left_as_it_was_also_after_an_error(
    policies: TypePolicies, items: TokenizedItems, mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = np.ones((len(items), 3), dtype=bool)
    policies.train(mode)
    type_logps(policies, items, wanted)
    assert policies.training is mode

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(TypePolicies, "forward", fails)
    with pytest.raises(RuntimeError, match="out of memory"):
        type_logps(policies, items, wanted)
    assert policies.training is mode
    policies.eval()


def ranked() -> Preferences:
    said = ["a", "b", "c"]
    return Preferences.from_rows(
        [
            {"annotator_id": 1, "prompt": "p", "completions": ["b", "c", "a"]},
            {"annotator_id": 2, "prompt": "p", "chosen": "c", "rejected": "a"},
            {"annotator_id": 2, "prompt": "p", "completions": said, "ratings": [1, 5, 5]},
            {"annotator_id": 1, "prompt": "p", "completions": said, "n_ranked": 1},
        ]
    )


def test_rewards_and_evidence_by_hand() -> None:
    prefs = ranked()
    place = {text: number for number, (_, text) in enumerate(prefs.items)}
    logps, reference = np.zeros((3, 2)), np.zeros(3)
    for text, first, second, base in (("a", -1.0, -9.0, -3.0), ("b", -4.0, -2.0, -5.0), ("c", -6.0, -6.0, -6.0)):
        logps[place[text]], reference[place[text]] = (first, second), base
    # β·h with β = .5: a (1, −3), b (.5, 1.5), c (0, 0)
    rewards = implicit_rewards(prefs, logps, reference, beta=0.5)
    assert rewards[0].tolist() == [[0.5, 1.5], [0.0, 0.0], [1.0, -3.0]]
    assert rewards[1].tolist() == [[0.0, 0.0], [1.0, -3.0], [0.0, 0.0]]  # the last is padding
    found = row_log_likelihoods(rewards, prefs.ranks)
    e = math.exp
    for k, (a, b, c) in enumerate(((1.0, 0.5, 0.0), (-3.0, 1.5, 0.0))):
        expected = [
            b - math.log(e(a) + e(b) + e(c)) + c - math.log(e(a) + e(c)),
            c - math.log(e(a) + e(c)),
            b - math.log(e(a) + e(b)) + c - math.log(e(a) + e(c)),  # b and c tie, both above a
            a - math.log(e(a) + e(b) + e(c)),
        ]
        np.testing.assert_allclose(found[:, k], expected, atol=1e-12)


def test_parts_of_many_rows_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rewards = torch.randn(7, 3, 2, dtype=torch.float64)
    ranks = np.tile([0, 1, 1], (7, 1)).astype(np.int16)
    whole = row_log_likelihoods(rewards, ranks)
    monkeypatch.setattr("palign.models.type_scores.ROWS_AT_ONCE", 3)
    assert torch.equal(row_log_likelihoods(rewards, ranks), whole)
    assert row_log_likelihoods(rewards[:0], ranks[:0]).shape == (0, 2)


def test_items_of_other_rows_may_be_unknown() -> None:
    """NaN stands where nothing was computed; it must not reach rows that do not use it."""
    prefs = ranked().select([1])
    unused = next(number for number, (_, text) in enumerate(prefs.items) if text == "b")
    logps = np.zeros((3, 2))
    logps[unused] = np.nan
    rewards = implicit_rewards(prefs, logps, np.zeros(3), beta=1.0)
    assert torch.isfinite(rewards).all()
    torch.testing.assert_close(
        row_log_likelihoods(rewards, prefs.ranks), torch.full((1, 2), -math.log(2), dtype=torch.float64)
    )
