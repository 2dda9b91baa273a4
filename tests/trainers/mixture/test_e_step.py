"""The E-step of a round: whose word counts."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from palign.functional.mixture import responsibilities
from palign.functional.mixture_checks import restart_stability
from palign.models.type_scores import merged
from palign.trainers.mixture.e_step import checks_of_round, posterior_of_round
from palign.trainers.mixture.start import LinearStart
from palign.trainers.mixture.state import MixtureState

NAN = float("nan")


def state(gamma: torch.Tensor, likelihoods: torch.Tensor) -> MixtureState:
    return MixtureState(
        gamma, gamma.mean(0), likelihoods, torch.full((1, 2, gamma.shape[1]), NAN, dtype=torch.float64)
    )


def test_early_rounds_hear_the_linear_head_and_the_last_does_not() -> None:
    gamma = torch.tensor([[0.6, 0.4], [0.4, 0.6]], dtype=torch.float64)
    adapters = torch.tensor([[-1.0, -9.0], [-9.0, -1.0]], dtype=torch.float64)
    cheap = torch.tensor([[-50.0, -1.0], [-50.0, -1.0]], dtype=torch.float64)
    start = LinearStart(gamma, cheap)
    early, _ = posterior_of_round(state(gamma, adapters), start, share=0.5, temper=0.2)
    assert early.argmax(1).tolist() == [1, 1]
    torch.testing.assert_close(early, responsibilities(0.1 * adapters + 0.5 * cheap, gamma.mean(0)))
    last, check = posterior_of_round(state(gamma, adapters), start, share=1.0, temper=1.0)
    assert (check["name"], check["verdict"]) == ("weak_adapters", "ok")
    torch.testing.assert_close(last, responsibilities(adapters, gamma.mean(0)))


def test_adapters_that_know_nobody_change_nobody() -> None:
    gamma = torch.tensor([[0.99, 0.01], [0.99, 0.01], [0.02, 0.98]], dtype=torch.float64)
    nothing = torch.full((3, 2), -5.0, dtype=torch.float64)
    kept, check = posterior_of_round(state(gamma, nothing), LinearStart(gamma), share=1.0, temper=1.0)
    assert (check["verdict"], check["value"]) == ("look", 0.0)
    assert torch.equal(kept, gamma)


def test_parts_of_processes_are_merged() -> None:
    found = merged([np.array([[1.0, NAN], [NAN, NAN]]), np.array([[NAN, 2.0], [3.0, NAN]])])
    np.testing.assert_array_equal(found, [[1.0, 2.0], [3.0, NAN]])


def test_people_who_sit_where_they_were_put_are_looked_at_unless_rivals_agree() -> None:
    gamma = torch.eye(2, dtype=torch.float64)[torch.arange(20) % 2] * 0.998 + 0.001
    types, margins = gamma.argmax(1), torch.randn(50, 2, generator=torch.Generator().manual_seed(0)).double()

    def verdicts(restart_types: torch.Tensor, gains: list[float]) -> dict[str, str]:
        stable = restart_stability(restart_types, torch.tensor(gains))
        start = LinearStart(gamma, checks=[asdict(stable)])
        return {c["name"]: c["verdict"] for c in checks_of_round(state(gamma, gamma), start, margins)}

    assert verdicts(torch.stack([types, 1 - types]), [10.0, 10.0])["frozen_assignment"] == "ok"
    assert verdicts(types[None], [10.0])["frozen_assignment"] == "look"  # a single start
    assert verdicts(torch.stack([types, 1 - types]), [10.0, 2.0])["frozen_assignment"] == "look"  # no rival


def test_types_are_one_by_their_margins_where_rows_are_known() -> None:
    gamma = torch.full((4, 2), 0.5, dtype=torch.float64)
    margins = torch.randn(60, 1, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([[1.0, 4.0]])
    margins[0, 1] = NAN
    found = {c["name"]: c for c in checks_of_round(state(gamma, gamma), LinearStart(gamma), margins)}[
        "duplicate_types"
    ]
    assert found["verdict"] == "look" and abs(found["value"] - 1) < 1e-12


def test_a_checkpoint_without_margins_still_loads(tmp_path: Path) -> None:
    gamma = torch.full((2, 2), 0.5, dtype=torch.float64)
    state(gamma, gamma.clone()).save(tmp_path)
    file = tmp_path / "mixture_state.safetensors"
    save_file(load_file(file) | {"recorded": torch.tensor([[-1.0, NAN]], dtype=torch.float64)}, file)
    loaded = MixtureState.load(tmp_path).recorded
    assert loaded.shape == (1, 2, 2) and loaded[0, 0, 0] == -1.0 and bool(loaded[0, 1].isnan().all())
