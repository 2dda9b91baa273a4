"""Divided weights are tested with real processes in tests/distributed; here what a single process can show."""

from pathlib import Path
from typing import Any

import pytest
import torch
from mixture_helpers import colour_lm, lora
from torch import nn
from torch.distributed.tensor import DTensor

from palign.models.adapters import adapter_state, add_type_adapters, restore_adapter_state
from palign.models.sharded import is_sharded, leave_engine, loading_whole, make_whole, set_whole, turns, whole_tensor


def test_whole_weights_are_left_as_they_are() -> None:
    model = nn.Linear(2, 3)
    before = model.weight
    assert not is_sharded(model)
    assert torch.equal(whole_tensor(model.weight), before)
    leave_engine(model)
    make_whole(model, model)
    assert model.weight is before
    assert list(turns(["a", "b"], "filler", model)) == [("a", True), ("b", True)]


def test_nothing_is_loaded_in_parts_inside_loading_whole_and_the_state_before_comes_back() -> None:
    from transformers.integrations import deepspeed as integration

    class Config:
        def is_zero3(self) -> bool:
            return True

    config = Config()
    integration.set_hf_deepspeed_config(config)
    try:
        assert integration.is_deepspeed_zero3_enabled()
        with loading_whole():
            assert not integration.is_deepspeed_zero3_enabled()
        assert integration.is_deepspeed_zero3_enabled()
    finally:
        integration.unset_hf_deepspeed_config()


@pytest.fixture
def one_rank(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_fsdp2_parameters_are_read_and_written_whole(one_rank: None) -> None:
    """PyTorch's own FSDP2 on the CPU; Accelerate's does not run there."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    policy = add_type_adapters(colour_lm(), lora(), 2, seed=0)
    before = adapter_state(policy)
    fully_shard(policy, mesh=init_device_mesh("cpu", (1,)))
    assert is_sharded(policy)
    assert all(isinstance(p, DTensor) for p in policy.parameters())
    state = adapter_state(policy)
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
    restore_adapter_state(policy, {name: values + 1 for name, values in before.items()})
    for name, values in adapter_state(policy).items():
        torch.testing.assert_close(values, before[name] + 1)
    some = next(policy.parameters())
    set_whole(some, torch.zeros(some.shape))
    assert not whole_tensor(some).any()


def test_the_launcher_is_asked_about_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    from palign.trainers.deepspeed_runs import is_deepspeed_launch, prepare_deepspeed

    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert not is_deepspeed_launch()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert is_deepspeed_launch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'palign\[deepspeed\]'"):
        prepare_deepspeed(is_asked=False)


@pytest.mark.parametrize("trainer", ["reward", "ppo", "grpo", "em", "fair", "evaluate"])
def test_fsdp_is_refused_before_anything_is_loaded(
    trainer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a launcher that asks for it, and by the flag."""
    from palign import FairPolicyConfig, MixtureDPOConfig, PALGRPOConfig, PALPPOConfig, PALRewardConfig
    from palign.trainers.deepspeed_runs import refuse_fsdp

    configs: dict[str, Any] = {
        "reward": PALRewardConfig, "ppo": PALPPOConfig, "grpo": PALGRPOConfig, "em": MixtureDPOConfig,
        "fair": FairPolicyConfig,
    }  # fmt: skip
    asked = "FSDP was asked for.* Launch with accelerate_configs/zero3.yaml"
    if trainer in configs:
        with pytest.raises(ValueError, match=asked):
            configs[trainer](output_dir=str(tmp_path), use_cpu=True, fsdp=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match=asked):
        if trainer in configs:
            configs[trainer](output_dir=str(tmp_path), use_cpu=True)
        else:
            refuse_fsdp(is_asked=False)


def test_the_private_names_of_libraries_that_several_trainers_in_one_process_lean_on_are_there() -> None:
    """Where one of these has moved, look at deepspeed_runs.py, sharded.py and pal_ppo_trainer.py."""
    import inspect

    from accelerate.state import AcceleratorState, GradientState

    assert isinstance(AcceleratorState._shared_state, dict) and callable(AcceleratorState._reset_state)
    assert callable(GradientState._reset_state)
    assert "plugin_kwargs" in inspect.getsource(GradientState.sync_with_dataloader.fget)
    offload = pytest.importorskip("deepspeed.runtime.zero.parameter_offload")
    assert "_pre_forward_module_hook" in inspect.getsource(offload.DeepSpeedZeRoOffload._register_deepspeed_module)
    partition = pytest.importorskip("deepspeed.runtime.zero.partition_parameters")
    assert {"AVAILABLE", "NOT_AVAILABLE"} <= {status.name for status in partition.ZeroParamStatus}
