"""A value model from a policy in half precision, and quantized, where bitsandbytes is installed (CPU will do)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from policy_helpers import lora, named_rows
from ppo_helpers import IdReward, SpyReward, ppo_config, tiny_policy
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from palign.models.tiny import make_tiny_lm
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.value_model import make_value_model

FOUR = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}


def quantized_policy(folder: Path, kind: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(as it was, in 4 or 8 bits, tokenizer)."""
    pytest.importorskip("bitsandbytes")
    tokenizer = tiny_policy()[1]
    policy = make_tiny_lm(tokenizer, hidden_size=64, n_layers=1, n_heads=2, seed=0)
    policy.save_pretrained(folder / "base")
    settings = BitsAndBytesConfig(**kind)
    packed = AutoModelForCausalLM.from_pretrained(
        folder / "base", quantization_config=settings, device_map={"": "cpu"}
    )
    return policy, packed, tokenizer


def test_a_value_model_of_a_policy_in_half_precision_takes_small_steps(tmp_path: Path) -> None:
    """A step of 3e-6 is below half of bfloat16's spacing for nearly all weights, and those would stand still."""
    policy, tokenizer = tiny_policy()
    config = ppo_config(tmp_path, learning_rate=3e-6, bf16=True, max_steps=2, lr_scheduler_type="constant")
    trainer = PALPPOTrainer(
        policy.to(torch.bfloat16), SpyReward(IdReward()), config, tokenizer, named_rows(), peft_config=lora()
    )
    layers = trainer.model.value_model.model.layers
    before = {name: p.detach().clone() for name, p in layers.named_parameters()}
    trainer.train()
    moved = torch.cat([(p != before[name]).flatten() for name, p in layers.named_parameters()])
    assert moved.float().mean() > 0.95
    assert {p.dtype for p in trainer.model.policy.base_model.model.lm_head.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize(("kind", "step"), [(FOUR, 0.16), ({"load_in_8bit": True}, 1 / 127)])
def test_a_quantized_policys_weights_are_unpacked(tmp_path: Path, kind: dict[str, Any], step: float) -> None:
    """Every weight is within half of nf4's widest gap (.304 of a block's largest), or of a step of 8 bits, 1/127."""
    policy, packed, _ = quantized_policy(tmp_path, kind)
    value = make_value_model(packed)
    assert not hasattr(value.config, "quantization_config")
    own, kept = dict(policy.model.named_parameters()), dict(value.model.named_parameters())
    assert own.keys() == kept.keys()
    for name, weights in kept.items():
        assert weights.dtype == torch.float32 and weights.requires_grad
        assert (weights - own[name]).abs().max() <= step * own[name].abs().max(), name
    assert torch.equal(kept["embed_tokens.weight"], own["embed_tokens.weight"])


def test_ppo_trains_an_adapter_on_a_policy_in_four_bits(tmp_path: Path) -> None:
    _, packed, tokenizer = quantized_policy(tmp_path, FOUR)
    before = {name: p.clone() for name, p in packed.named_parameters()}
    trainer = PALPPOTrainer(
        packed, SpyReward(IdReward()), ppo_config(tmp_path), tokenizer, named_rows(), peft_config=lora()
    )
    trainer.train()
    trainer.save_model()
    moved = {name: p for name, p in trainer.model.policy.named_parameters() if "lora_B" in name}
    assert moved and all(p.abs().max() > 0 for p in moved.values())
    after = dict(trainer.model.policy.unload().named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
