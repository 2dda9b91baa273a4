"""Divided weights are tested with real processes in tests/distributed; here what a single process can show."""

import pytest
import torch
from torch import nn

from palign.parallel.sharded import is_sharded, leave_engine, loading_whole, make_whole, turns, whole_tensor


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


def test_the_launcher_is_asked_about_deepspeed(monkeypatch: pytest.MonkeyPatch) -> None:
    from palign.parallel.deepspeed_launch import is_deepspeed_launch, prepare_deepspeed

    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    assert not is_deepspeed_launch()
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    assert is_deepspeed_launch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'palign\[deepspeed\]'"):
        prepare_deepspeed(is_asked=False)


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
