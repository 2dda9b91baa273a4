"""Small causal language models of several architectures, untrained."""

import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

VOCAB = 50
SHAPE = {"vocab_size": VOCAB, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1,
         "eos_token_id": 2}  # fmt: skip


def small_model(kind: str) -> nn.Module:
    """gpt2, bloom, mamba, mistral (a window of 8), gemma2 (capped logits), cohere (scaled ones), eager, or a Llama."""
    torch.manual_seed(0)
    if kind == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=2)).eval()
    if kind == "bloom":
        return BloomForCausalLM(BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=2)).eval()
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=16, num_hidden_layers=2)).eval()
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)).eval()
    if kind == "gemma2":
        return Gemma2ForCausalLM(Gemma2Config(**SHAPE, head_dim=8)).eval()
    if kind == "cohere":
        return CohereForCausalLM(CohereConfig(**SHAPE)).eval()
    config = LlamaConfig(**SHAPE)
    config._attn_implementation = "eager" if kind == "eager" else "sdpa"
    return LlamaForCausalLM(config).eval()
