"""PyTorch's FSDP2 on one gloo process: models whole for a while, and out of it; what a launcher may ask for.

Whole trainings under Accelerate's FSDP2 on two processes are in tests/distributed.
"""

import copy
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from palign.models.adapters import TypePolicies, adapter_state, add_type_adapters, restore_adapter_state
from palign.parallel.fsdp import (
    divide_again,
    is_fsdp,
    is_kept_divided,
    keep_divided,
    kept_whole,
    leave_fsdp,
    outside_fsdp,
)
from palign.parallel.fsdp_launch import NEEDS, check_fsdp, is_fsdp_launch, say_there_is_no_gpu
from palign.parallel.sharded import divided_parameters, is_sharded, make_whole, set_whole, whole_tensor
from tests.worlds.colour import colour_lm
from tests.worlds.fsdp import fsdp2_environment
from tests.worlds.lora import lora

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture
def one_rank(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def divided(**options: Any) -> TypePolicies:
    """Type adapters as Accelerate divides them: layers by themselves, the rest with the outermost module."""
    mesh = init_device_mesh("cpu", (1,))
    policies = TypePolicies(add_type_adapters(colour_lm(), lora(), 2, seed=0))
    for layer in policies.policy.get_base_model().model.layers:
        fully_shard(layer, mesh=mesh, **options)
    return fully_shard(policies, mesh=mesh, **options)


def logits(policies: TypePolicies) -> torch.Tensor:
    """Of the policy by itself, below the outermost module."""
    return policies.policy(input_ids=IDS).logits.detach()


def test_parts_of_a_divided_model_run_while_it_is_kept_whole(one_rank: None) -> None:
    whole = TypePolicies(add_type_adapters(colour_lm(), lora(), 2, seed=0))
    policies = divided()
    assert is_fsdp(policies) and is_fsdp(policies.policy) and is_sharded(policies)
    with pytest.raises(RuntimeError, match="DTensor"):
        logits(policies)
    policies = divided()
    with kept_whole(policies):
        torch.testing.assert_close(logits(policies), logits(whole))
        torch.testing.assert_close(logits(policies), logits(whole))  # nothing was divided by the first pass
        policies.policy.generate(input_ids=IDS, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert all(isinstance(parameter, DTensor) for parameter in policies.parameters())
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "completion_mask": torch.ones_like(IDS)}
    torch.testing.assert_close(policies(**batch), whole(**batch))


@pytest.mark.parametrize("context", [kept_whole, outside_fsdp])
def test_training_goes_on_after_it_was_whole(one_rank: None, context: Any) -> None:
    policies, whole = divided(), TypePolicies(add_type_adapters(colour_lm(), lora(), 2, seed=0))
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "completion_mask": torch.ones_like(IDS)}
    losses: dict[str, list[float]] = {}
    for name, model in (("divided", policies), ("whole", whole)):
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(3):
            with context(model):
                logits(model)
            assert is_fsdp(model) == (model is policies)
            loss = model(**batch).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.setdefault(name, []).append(loss.item())
    assert losses["divided"] == pytest.approx(losses["whole"], abs=1e-4)
    assert abs(losses["whole"][2] - losses["whole"][0]) > 0.1


def test_a_model_that_has_left_is_plain_and_may_be_divided_again(one_rank: None) -> None:
    whole = TypePolicies(add_type_adapters(colour_lm(), lora(), 2, seed=0))
    policies = divided()
    register_fsdp_forward_method(policies, "activation_checkpointing_enable")  # as transformers does with `generate`
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "completion_mask": torch.ones_like(IDS)}
    policies(**batch)  # the outermost unit stays whole after it
    for _ in range(2):
        leave_fsdp(policies)
        assert not is_fsdp(policies) and not is_sharded(policies)
        assert [type(m) for m in policies.modules()] == [type(m) for m in whole.modules()]
        assert "activation_checkpointing_enable" not in policies.__dict__
        for (name, ours), theirs in zip(policies.named_parameters(), whole.parameters(), strict=True):
            assert type(ours) is nn.Parameter and ours.requires_grad == theirs.requires_grad, name
            assert torch.equal(ours, theirs), name
        policies.load_state_dict(copy.deepcopy(policies).state_dict())
        torch.testing.assert_close(logits(policies), logits(whole))
        torch.testing.assert_close(policies(**batch), whole(**batch))
        mesh = init_device_mesh("cpu", (1,))
        for layer in policies.policy.get_base_model().model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(policies, mesh=mesh)
        torch.testing.assert_close(policies(**batch), whole(**batch))


def test_a_part_that_is_needed_further_may_leave_alone(one_rank: None) -> None:
    """Of PPO's policy and value model the policy."""
    whole, policies = add_type_adapters(colour_lm(), lora(), 2, seed=0), divided()
    make_whole(policies.policy, policies)
    assert not is_fsdp(policies.policy) and not is_sharded(policies.policy)
    with torch.no_grad():
        torch.testing.assert_close(policies.policy(input_ids=IDS).logits, whole(input_ids=IDS).logits)


def test_tied_weights_stay_tied(one_rank: None) -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with outside_fsdp(model):
        assert model[1].weight is model[0].weight and not isinstance(model[1].weight, DTensor)
    assert isinstance(model[1].weight, DTensor)
    leave_fsdp(model)
    assert model[1].weight is model[0].weight


def test_values_are_read_as_they_are_stored_and_not_as_they_are_computed_with(one_rank: None) -> None:
    policies = divided(mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    with kept_whole(policies):
        assert {parameter.dtype for parameter in policies.parameters()} == {torch.bfloat16}
    policies(input_ids=IDS, attention_mask=torch.ones_like(IDS), completion_mask=torch.ones_like(IDS))
    with outside_fsdp(policies):
        assert not any(isinstance(parameter, DTensor) for parameter in policies.parameters())
        assert {parameter.dtype for parameter in policies.parameters()} == {torch.float32}
        state = {name: values.clone() for name, values in policies.state_dict().items()}
    assert all(isinstance(parameter, DTensor) for parameter in policies.parameters())
    leave_fsdp(policies)
    assert all(torch.equal(values, state[name]) for name, values in policies.state_dict().items())


def test_plain_models_are_left_alone() -> None:
    model = nn.Linear(2, 3)
    before = model.weight
    with kept_whole(model), outside_fsdp(model):
        assert model.weight is before
    divide_again(model)
    leave_fsdp(model)
    assert model.weight is before and type(model) is nn.Linear and not is_fsdp(model) and not is_fsdp(None)


def test_adapters_are_read_and_written_whole(one_rank: None) -> None:
    policies = divided()
    policy = policies.policy
    before = adapter_state(add_type_adapters(colour_lm(), lora(), 2, seed=0))
    state = adapter_state(policy)
    assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
    restore_adapter_state(policy, {name: values + 1 for name, values in before.items()})
    for name, values in adapter_state(policy).items():
        torch.testing.assert_close(values, before[name] + 1)
    some = next(policy.parameters())
    set_whole(some, torch.zeros(some.shape))
    assert not whole_tensor(some).any()


# what may be asked for


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The variables that `accelerate launch` sets for accelerate_configs/fsdp2.yaml."""
    for name, value in fsdp2_environment().items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_the_configuration_of_the_repository_is_what_is_asked_for(
    launched: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert is_fsdp_launch()
    say_there_is_no_gpu.cache_clear()
    for _ in range(2):
        check_fsdp()
    assert caplog.text.count("there is no GPU") <= 1
    assert ("there is no GPU" in caplog.text) == (not torch.accelerator.is_available())


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_a_setting_under_which_something_would_go_wrong_later_is_refused(
    launched: pytest.MonkeyPatch, name: str
) -> None:
    others = {
        "FSDP_VERSION": "1", "FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT", "FSDP_AUTO_WRAP_POLICY": "SIZE_BASED_WRAP",
    }  # fmt: skip
    launched.setenv(name, others.get(name, "true"))
    with pytest.raises(ValueError, match=rf"{name.lower()}: {others.get(name, 'true')}; here it must be .*fsdp2.yaml"):
        check_fsdp()


@pytest.mark.parametrize("trainer", ["reward", "ppo", "grpo", "em", "fair"])
def test_every_configuration_looks_before_anything_is_loaded(
    trainer: str, tmp_path: Path, launched: pytest.MonkeyPatch
) -> None:
    from palign import FairPolicyConfig, MixtureDPOConfig, PALGRPOConfig, PALPPOConfig, PALRewardConfig

    configs: dict[str, Any] = {
        "reward": PALRewardConfig, "ppo": PALPPOConfig, "grpo": PALGRPOConfig, "em": MixtureDPOConfig,
        "fair": FairPolicyConfig,
    }  # fmt: skip
    with pytest.raises(
        ValueError, match=r"--fsdp was given.*accelerate launch --config_file accelerate_configs/fsdp2"
    ):
        configs[trainer](output_dir=str(tmp_path), use_cpu=True, fsdp=True)
    launched.setenv("FSDP_VERSION", "1")
    with pytest.raises(ValueError, match="fsdp_version: 1; here it must be 2"):
        configs[trainer](output_dir=str(tmp_path), use_cpu=True)


def test_nothing_is_asked_of_other_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    monkeypatch.setenv("FSDP_VERSION", "1")
    assert not is_fsdp_launch()
    check_fsdp()


def test_a_base_that_was_loaded_in_parts_stays_so(one_rank: None) -> None:
    base = colour_lm()
    for part in (*base.model.layers, base):
        fully_shard(part, mesh=init_device_mesh("cpu", (1,)))
    keep_divided(base)
    policies, whole = (TypePolicies(add_type_adapters(model, lora(), 2, seed=0)) for model in (base, colour_lm()))
    assert is_kept_divided(policies) and is_sharded(policies) and not is_kept_divided(whole)
    parts = [name for name, held in policies.named_parameters() if isinstance(held, DTensor)]
    assert parts and all("lora_" not in name for name in parts)
    assert len(divided_parameters(policies)) == len(parts)
    for context in (kept_whole, outside_fsdp):
        with context(policies):
            assert [name for name, held in policies.named_parameters() if isinstance(held, DTensor)] == parts
            torch.testing.assert_close(logits(policies), logits(whole))
            base.reshard()  # the outermost one stays whole after a forward pass
    make_whole(policies, None)
    assert [name for name, held in policies.named_parameters() if isinstance(held, DTensor)] == parts
    torch.testing.assert_close(logits(policies), logits(whole))


def test_the_private_names_of_pytorch_are_there(one_rank: None) -> None:
    """Where one of these has moved, look at palign/parallel/fsdp.py."""
    policies = divided()
    state = policies._get_fsdp_state()
    assert state._is_root is None
    state._lazy_init()
    assert state._is_root
    (group,) = state._fsdp_param_groups
    assert group.post_forward_mesh_info is None  # the outermost one stays whole after a forward pass
    assert group._all_gather_result is None and group.comm_ctx.all_gather_state is None
    assert policies in _composable_state._module_state_mapping
    assert policies._is_fsdp_managed_module and issubclass(type(policies), FSDPModule)
    assert "post_forward_mesh_info" in inspect.getsource(FSDPModule.set_reshard_after_forward)
