"""K adapters on one base: routing without flags, one forward for all types, checkpointing, files."""

import copy
import json
import warnings
from pathlib import Path

import pytest
import torch
from peft import IA3Config, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from palign.models.adapters import (
    TypePolicies,
    adapter_state,
    add_type_adapters,
    checkpointing_kwargs,
    load_type_adapters,
    read_type_adapters,
    require_grad,
    restore_adapter_state,
    route,
    save_type_adapters,
    type_names,
)
from palign.models.completions import policy_logps
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from tests.worlds.lora import lora

TOKENIZER = make_tiny_tokenizer(["a cat"] * 3, vocab_size=300)


def make_base(**options: int) -> nn.Module:
    return make_tiny_lm(TOKENIZER, **({"hidden_size": 32, "n_layers": 2} | options))


def make_policy(n_types: int = 3, *, trained: bool = True, **changes: object) -> PeftModel:
    """Adapters on a fresh base; `trained` draws B as well, so that types differ."""
    policy = add_type_adapters(make_base(), lora(**changes), n_types, seed=5)
    if trained:
        generator = torch.Generator().manual_seed(1)
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return policy


def make_batch(n: int = 5, side: str = "right") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 256, (n, 9), generator=generator)
    lengths = torch.tensor([9, 5, 7, 4, 6])[:n, None]
    position = torch.arange(9)
    real = position < lengths if side == "right" else position >= 9 - lengths
    if side == "left":
        ids = torch.stack([row.roll(9 - int(length)) for row, length in zip(ids, lengths, strict=True)])
        position = position - (9 - lengths)
    completion = real & (position >= 2)
    return {
        "input_ids": ids.masked_fill(~real, 0),
        "attention_mask": real.long(),
        "completion_mask": completion.long(),
    }


def owner(name: str) -> str | None:
    """The type that a parameter belongs to, None for the base."""
    return next((part for part in name.split(".") if part.startswith("type_")), None)


def test_the_private_names_that_routing_rests_on() -> None:
    """`_active_adapter` and `_disable_adapters` of PEFT's tuner layers; if a release moves them, so must `route`."""
    layer = next(module for module in make_policy().modules() if isinstance(module, BaseTunerLayer))
    assert {"_active_adapter", "_disable_adapters"} <= set(vars(BaseTunerLayer))
    assert layer.active_adapters == ["type_0"] and layer.disable_adapters is False
    layer._active_adapter, layer._disable_adapters = ["type_2"], True
    assert layer.active_adapters == ["type_2"] and layer.disable_adapters is True


def test_each_type_has_its_own_draw_and_the_random_state_stays() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    three, two = make_policy(3, trained=False), make_policy(2, trained=False)
    assert torch.equal(torch.rand(3), expected)
    assert type_names(three) == ["type_0", "type_1", "type_2"]
    draws = {name: p for name, p in three.named_parameters() if "lora_A" in name}
    for name, parameter in two.named_parameters():
        if "lora_A" in name:
            assert torch.equal(parameter, draws[name])
            if owner(name) == "type_0":
                assert not torch.equal(parameter, draws[name.replace("type_0", "type_1")])
    assert all(p.requires_grad == (owner(name) is not None) for name, p in three.named_parameters())
    other = add_type_adapters(make_base(), lora(), 1, seed=6)
    assert not any(torch.equal(p, draws[name]) for name, p in other.named_parameters() if "lora_A" in name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "all"}, "bias is 'all': biases belong to the base"),
        ({"modules_to_save": ["lm_head"]}, "full copy"),
        ({"init_lora_weights": "pissa"}, "reference would move"),
    ],
)
def test_configurations_that_cannot_be_right_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        add_type_adapters(make_base(), lora(**changes), 2, seed=0)


def test_other_refusals() -> None:
    policy = make_policy(2)
    for carrier in (policy, policy.get_base_model()):
        with pytest.raises(ValueError, match="already carries an adapter.*merge_and_unload"):
            add_type_adapters(carrier, lora(), 2, seed=0)
    with pytest.raises(TypeError, match="IA3Config.*give a LoraConfig"):
        add_type_adapters(make_base(), IA3Config(), 2, seed=0)
    with pytest.raises(ValueError, match="n_types is 0"):
        add_type_adapters(make_base(), lora(), 0, seed=0)
    with pytest.raises(ValueError, match="no adapter 'type_7'.*type_0, type_1"):
        route(policy, "type_7")
    with pytest.raises(ValueError, match="carries 2 type adapters.*3 are asked"):
        require_grad(policy, 3)
    with pytest.raises(ValueError, match="carries no type adapters"):
        TypePolicies(make_base())
    with pytest.raises(ValueError, match=r"needs_grad has shape \(5, 3\).*\(5, 2\)"):
        TypePolicies(policy)(**make_batch(), needs_grad=torch.ones(5, 3, dtype=torch.bool))


def flags(policy: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in policy.named_parameters()}


def active(policy: nn.Module) -> set[tuple[str, bool]]:
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    return {(*layer.active_adapters, layer.disable_adapters) for layer in layers}


def test_route_nests_restores_after_exceptions_and_touches_no_flag() -> None:
    policy = make_policy()
    before = flags(policy)
    with pytest.raises(RuntimeError, match="inside"), route(policy, "type_1"):
        assert active(policy) == {("type_1", False)}
        with route(policy, None):
            assert {disabled for _, disabled in active(policy)} == {True}
            with route(policy, "type_2"):
                assert active(policy) == {("type_2", False)} and flags(policy) == before
        assert active(policy) == {("type_1", False)}
        raise RuntimeError("inside")
    assert active(policy) == {("type_0", False)} and flags(policy) == before
    again = route(policy, "type_2")
    with again, again:
        assert active(policy) == {("type_2", False)}
    assert active(policy) == {("type_0", False)}


@torch.no_grad()
def test_adapters_off_is_the_base() -> None:
    policy, batch = make_policy(), make_batch()
    with route(policy, None):
        assert torch.equal(policy_logps(policy, **batch), policy_logps(make_base(), **batch))


@torch.no_grad()
def test_one_forward_equals_models_with_one_adapter_each(tmp_path: Path) -> None:
    policy, batch = make_policy(), make_batch()
    save_type_adapters(policy, tmp_path)
    found = TypePolicies(policy)(**batch)
    for k in range(3):
        alone = PeftModel.from_pretrained(make_base(), tmp_path / f"type_{k}")
        torch.testing.assert_close(found[:, k], policy_logps(alone, **batch), atol=1e-5, rtol=0)
    assert (found[:, 0] - found[:, 1]).abs().min() > 1e-3


@torch.no_grad()
def test_padding_on_either_side_gives_the_same() -> None:
    policies = TypePolicies(make_policy())
    right, left = policies(**make_batch()), policies(**make_batch(side="left"))
    torch.testing.assert_close(left, right, atol=1e-6, rtol=0)
    first = {name: tensor[1:2] for name, tensor in make_batch().items()}
    torch.testing.assert_close(policies(**first), right[1:2], atol=1e-5, rtol=0)


def test_a_cell_moves_its_own_type_only_and_others_get_exact_zeros() -> None:
    policies, batch = TypePolicies(make_policy()), make_batch()
    cells = torch.zeros(5, 3, dtype=torch.bool)
    cells[[1, 3], 1] = True
    logps = policies(**batch, needs_grad=cells)
    torch.testing.assert_close(logps[cells], policies(**batch)[cells], atol=1e-5, rtol=0)
    assert (logps[~cells] == 0).all()
    logps.sum().backward()
    for name, parameter in policies.named_parameters():
        if owner(name) is None:
            assert parameter.grad is None
        else:
            assert bool((parameter.grad != 0).any()) == (owner(name) == "type_1"), name


@pytest.mark.parametrize("types", [[1], [0, 1, 2]])
def test_a_step_moves_every_tensor_of_the_types_with_cells_and_nothing_else(types: list[int]) -> None:
    policies, batch = TypePolicies(make_policy(lora_dropout=0.1)), make_batch()
    before = copy.deepcopy(policies.state_dict())
    optimizer = torch.optim.AdamW([p for p in policies.parameters() if p.requires_grad], lr=0.01, weight_decay=0.0)
    cells = torch.zeros(5, 3, dtype=torch.bool)
    cells[:, types] = True
    policies.train()(**batch, needs_grad=cells).sum().backward()
    optimizer.step()
    wanted = {f"type_{k}" for k in types}
    for name, tensor in policies.state_dict().items():
        assert torch.equal(tensor, before[name]) == (owner(name) not in wanted), name


@pytest.mark.parametrize("with_filler", [False, True])
def test_gradients_under_checkpointing_are_those_without(with_filler: bool) -> None:
    plain, checkpointed = TypePolicies(make_policy()), TypePolicies(make_policy())
    base = checkpointed.policy.get_base_model()
    base.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing_kwargs(checkpointed.policy))
    assert all(layer.gradient_checkpointing for layer in base.model.layers)
    cells = torch.ones(5, 3, dtype=torch.bool)
    cells[:, 0] = not with_filler
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(3))
    for policies in (plain, checkpointed):
        (policies.train()(**make_batch(), needs_grad=cells) * weights).sum().backward()
    theirs = dict(plain.named_parameters())
    for name, parameter in checkpointed.named_parameters():
        if owner(name) is not None:
            torch.testing.assert_close(parameter.grad, theirs[name].grad, atol=1e-5, rtol=1e-4)  # one folds adapters
    assert active(checkpointed) == {("type_0", False)}


def test_without_its_context_checkpointing_is_wrong() -> None:
    """The trap itself: should a release mend it, `checkpointing_kwargs` may go."""
    plain, naive = TypePolicies(make_policy()), TypePolicies(make_policy())
    naive.policy.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    for policies in (plain, naive):
        policies.train()(**make_batch()).sum().backward()
    theirs = dict(plain.named_parameters())
    mine = {name: p.grad for name, p in naive.named_parameters() if owner(name) == "type_2"}
    assert any(grad is None or not torch.allclose(grad, theirs[name].grad) for name, grad in mine.items())


@torch.no_grad()
def test_save_and_load_give_the_same_policies(tmp_path: Path) -> None:
    policy, batch = make_policy(), make_batch()
    save_type_adapters(policy, tmp_path)
    save_type_adapters(policy, tmp_path)  # over itself
    assert sorted(path.name for path in tmp_path.iterdir()) == ["type_0", "type_1", "type_2"]
    assert {path.name for path in (tmp_path / "type_1").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert json.loads((tmp_path / "type_1" / "adapter_config.json").read_text())["inference_mode"] is True
    assert not any(config.inference_mode for config in policy.peft_config.values())
    state = torch.get_rng_state()
    loaded = load_type_adapters(make_base(), tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(TypePolicies(loaded)(**batch), TypePolicies(policy)(**batch), rtol=1e-6, atol=1e-5)
    assert not any(flags(loaded).values()) and not loaded.training
    again = load_type_adapters(make_base(), tmp_path, 3, trainable=True)
    assert flags(again) == flags(policy)
    alone = PeftModel.from_pretrained(make_base(), tmp_path / "type_2")
    prompt = batch["input_ids"][:1, :4]
    with route(loaded, "type_2"):
        mine = loaded.generate(input_ids=prompt, max_new_tokens=6, do_sample=False)
    assert torch.equal(mine, alone.generate(input_ids=prompt, max_new_tokens=6, do_sample=False))


def test_a_state_dict_of_the_wrapper_is_taken(tmp_path: Path) -> None:
    policies = TypePolicies(make_policy(2))
    gathered = {name: torch.zeros_like(tensor) for name, tensor in policies.state_dict().items()}
    save_type_adapters(policies.policy, tmp_path, gathered)
    loaded = load_type_adapters(make_base(), tmp_path)
    assert all((tensor == 0).all() for tensor in adapter_state(loaded).values())


def test_fewer_types_over_more_leave_no_old_one(tmp_path: Path) -> None:
    save_type_adapters(make_policy(3), tmp_path)
    (tmp_path / "mixture.json").write_text("{}")
    save_type_adapters(make_policy(1), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mixture.json", "type_0"]


def test_an_interrupted_save_leaves_the_old_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = make_policy(2)
    save_type_adapters(policy, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")}
    for parameter in policy.parameters():
        parameter.data += 1

    def killed(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("peft.config.PeftConfigMixin.save_pretrained", killed)  # after the weights were written
    with pytest.raises(KeyboardInterrupt):
        save_type_adapters(policy, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.safetensors")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["type_0", "type_1"]


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    save_type_adapters(make_policy(2, target_modules=["q_proj", "v_proj"]), tmp_path)
    with pytest.raises(ValueError, match="no complete adapter type_2 .*3 types must be there"):
        load_type_adapters(make_base(), tmp_path, 3)
    with pytest.raises(ValueError, match="no complete adapter type_0 .*at least one type"):
        load_type_adapters(make_base(), tmp_path / "type_0")
    with pytest.raises(ValueError, match="type_0.*another base.*another shape"):
        load_type_adapters(make_base(hidden_size=64), tmp_path)
    with pytest.raises(ValueError, match="type_0.*made for another base.*layers.2"):
        load_type_adapters(make_base(n_layers=3), tmp_path)
    with pytest.raises(ValueError, match="type_0.*made for another base.*layers.1"):
        load_type_adapters(make_base(n_layers=1), tmp_path)
    with pytest.raises(ValueError, match="already carries an adapter"):
        load_type_adapters(make_policy(1), tmp_path)
    save_type_adapters(make_policy(2), tmp_path)
    (tmp_path / "type_1" / "adapter_model.safetensors").write_bytes(b"not a tensor file")
    with pytest.raises(ValueError, match="type_1.*damaged"):
        read_type_adapters(make_policy(2), tmp_path)
    (tmp_path / "type_1" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="no complete adapter type_1"):
        read_type_adapters(make_policy(2), tmp_path)


def test_a_base_of_another_name_is_a_warning(tmp_path: Path) -> None:
    policy, base = make_policy(1), make_base()
    save_type_adapters(policy, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        load_type_adapters(make_base(), tmp_path)
    path = tmp_path / "type_0" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "one"}))
    base.name_or_path = "another"
    with pytest.warns(UserWarning, match="trained on 'one'; the base given is 'another'"):
        load_type_adapters(base, tmp_path)


def test_adapter_state_comes_back() -> None:
    policy = make_policy()
    state = adapter_state(policy)
    assert {owner(name) for name in state} == {"type_0", "type_1", "type_2"} and len(state) == 3 * 2 * 7 * 2
    expected = {name: tensor.clone() for name, tensor in state.items()}
    for parameter in policy.parameters():
        parameter.data += 1
    assert all(torch.equal(state[name], expected[name]) for name in state)
    restore_adapter_state(policy, state)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter_state(policy).items())
    with pytest.raises(ValueError, match="does not fit this model: 28 parameters"):
        restore_adapter_state(make_policy(2), state)
