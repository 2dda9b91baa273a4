"""What a layer keeps, by formula and by the allocator."""

import contextlib
import time
from itertools import product
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from palign.pipelines.memory.layers import Precision, Trained, kept
from palign.pipelines.memory.shape import ModelShape

SIZES = {
    "vocab_size": 50, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 16,
}  # fmt: skip
N_ROWS, LENGTH, RANK = 3, 40, 4
KINDS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}


def held_after_forward(kind: str, n_layers: int, precision: Precision, trained: Trained) -> int:
    """Bytes that were allocated in a forward pass under a mask and are still there after it."""
    config, model_class = KINDS[kind]
    torch.manual_seed(0)
    model: Any = model_class(config(**SIZES, num_hidden_layers=n_layers, attention_dropout=0.0))
    model.to(torch.float32 if precision.weight == 4 else torch.bfloat16)
    inner = model.model
    if trained.rank:
        dropout = 0.1 if trained.dropout else 0.0
        targets = "all-linear" if len(trained.targets) == 7 else list(trained.targets)
        get_peft_model(model, LoraConfig(r=RANK, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM"))
    inner.train()
    ids, mask = torch.randint(50, (N_ROWS, LENGTH)), torch.ones(N_ROWS, LENGTH, dtype=torch.long)
    mask[0, -3:] = 0
    autocast = torch.autocast("cpu", torch.bfloat16) if precision.autocasts else contextlib.nullcontext()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        with autocast:
            kept_alive = inner(input_ids=ids, attention_mask=mask, use_cache=False)[0].float().sum()
        end = time.time_ns()
    events = profiler.profiler.kineto_results.events()
    del kept_alive
    return sum(event.nbytes() for event in events if event.name() == "[memory]" and event.start_ns() < end)


def of_one_layer(kind: str, precision: Precision, trained: Trained) -> float:
    few, many = (held_after_forward(kind, n, precision, trained) for n in (2, 4))
    return (many - few) / 2


def shape(kind: str) -> ModelShape:
    return ModelShape(
        hidden=64, intermediate=160, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=16, vocab=50, is_tied=False,
        normalizes_heads=kind == "qwen3", n_parameters=0, stored_bytes=4, model_type=kind, source="",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "trained"),
    list(
        product(
            [Precision(4, False), Precision(4, True), Precision(2, True), Precision(2, False)],
            [Trained(RANK), Trained(RANK, ("q_proj", "v_proj")), Trained(RANK, dropout=True, mask_bytes=4), Trained()],
        )
    ),
    ids=str,
)
def test_a_llamas_layer_keeps_what_the_formula_says(precision: Precision, trained: Trained) -> None:
    planned = kept(shape("llama"), precision, trained, N_ROWS * LENGTH, LENGTH)
    assert planned == pytest.approx(of_one_layer("llama", precision, trained), rel=0.02)


def test_norms_on_heads_are_counted() -> None:
    planned = kept(shape("qwen3"), Precision(), Trained(RANK), N_ROWS * LENGTH, LENGTH)
    assert planned == pytest.approx(of_one_layer("qwen3", Precision(), Trained(RANK)), rel=0.02)
