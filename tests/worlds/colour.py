"""A tiny language model and two planted types who like opposite words, for tests of the mixture."""

import functools
from typing import Any

import numpy as np
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from palign.data.preferences import Preferences
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer

WARM = ("red", "orange", "gold", "pink")
COLD = ("blue", "green", "teal", "grey")
THINGS = ("house", "boat", "door", "hat", "car", "wall")


def planted_rows(
    n_annotators: int = 8, n_rows: int = 6, *, n_items: int = 2, n_ranked: int | None = None, seed: int = 0
) -> list[dict[str, Any]]:
    """Even annotators rank warm colours above cold ones, odd annotators the other way round; column `type` says so."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(n_annotators):
        for _ in range(n_rows):
            thing = THINGS[rng.integers(len(THINGS))]
            n_warm = n_items // 2
            warm, cold = (rng.permutation(words).tolist() for words in (WARM, COLD))
            order = warm[:n_warm] + cold[: n_items - n_warm]
            if person % 2:
                order = order[::-1]
            texts = [f" the {thing} is {colour}" for colour in order]
            row = {"annotator_id": f"p{person}", "prompt": f"what colour is the {thing}?", "type": "wc"[person % 2]}
            if n_items == 2:
                row |= {"chosen": texts[0], "rejected": texts[1]}
            else:
                row |= {"completions": texts} | ({} if n_ranked is None else {"n_ranked": n_ranked})
            rows.append(row)
    return rows


def planted(**options: Any) -> Preferences:
    """`planted_rows` as preferences."""
    return Preferences.from_rows(planted_rows(**options))


@functools.cache
def colour_tokenizer() -> PreTrainedTokenizerFast:
    """Knows every word of `planted_rows`."""
    texts = [f"what colour is the {thing}? the {thing} is {colour}" for thing in THINGS for colour in WARM + COLD]
    return make_tiny_tokenizer(texts, vocab_size=400)


def colour_lm(seed: int = 0) -> LlamaForCausalLM:
    """An untrained language model of about 60,000 parameters."""
    return make_tiny_lm(colour_tokenizer(), hidden_size=32, n_layers=2, n_heads=2, max_length=64, seed=seed)
