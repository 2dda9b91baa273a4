"""Shapes of models from their files."""

import json
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from palign.pipelines.memory.shape import read_shape

SIZES = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


@pytest.mark.parametrize("is_tied", [False, True])
def test_parameters_are_those_of_the_model(tmp_path: Path, is_tied: bool) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=is_tied))
    model.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.n_parameters == sum(p.numel() for p in model.parameters())
    assert shape.body_parameters == sum(p.numel() for p in model.model.parameters())
    assert shape.layer_parameters == sum(p.numel() for p in model.model.layers[0].parameters())
    assert shape.stored_bytes == 4 and shape.is_counted_exactly


def test_without_weights_the_sizes_are_counted(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False))
    model.config.save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    assert shape.n_parameters == sum(p.numel() for p in model.parameters()) and shape.source == "config.json"


def test_several_files_and_their_index(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES)).bfloat16()
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    n = sum(p.numel() for p in model.parameters())
    assert read_shape(tmp_path).n_parameters == n and read_shape(tmp_path).stored_bytes == 2
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    held = json.loads((tmp_path / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert "total_parameters" in held["metadata"] and read_shape(tmp_path).n_parameters == n


def test_adapters_are_counted_as_peft_makes_them(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    shape = read_shape(tmp_path)
    for targets in ("all-linear", ["q_proj", "down_proj"]):
        model = LlamaForCausalLM.from_pretrained(tmp_path)
        policy = get_peft_model(model, LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM"))
        n = sum(p.numel() for p in policy.parameters() if p.requires_grad)
        named = {} if targets == "all-linear" else {"targets": tuple(targets)}
        assert shape.adapter_parameters(4, **named) == n


def test_a_family_of_norms_on_heads_is_known(tmp_path: Path) -> None:
    Qwen3ForCausalLM(Qwen3Config(**SIZES)).save_pretrained(tmp_path)
    assert read_shape(tmp_path).normalizes_heads


def test_what_is_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "t5"}', encoding="utf-8")
    with pytest.raises(ValueError, match="has no hidden_size"):
        read_shape(tmp_path)
    LlamaConfig(**SIZES).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="is no safetensors file"):
        read_shape(tmp_path)
