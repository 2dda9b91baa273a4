"""What has to be known of a transformers model and its tokenizer before texts can pass through them."""

import json
from typing import Any

from torch import nn

from palign.data.rendering import answer_marks

__all__ = [
    "agree_on_marks", "end_of_turn", "hidden_size_of", "longest_input", "mark_ids", "n_layers_of",
    "sees_only_the_past", "special_ids", "stop_ids", "tokenizer_content", "without_head",
]  # fmt: skip


def without_head(model: nn.Module) -> nn.Module:
    """The transformer inside a model with a head, and the encoder of an encoder–decoder."""
    if not hasattr(model, "config"):
        raise TypeError(
            f"the backbone is a {type(model).__name__}; give a transformers model (it has a .config), a hub name or a "
            "folder."
        )
    base = model.base_model if hasattr(model, "base_model_prefix") else model
    return base.get_encoder() if base.config.is_encoder_decoder else base


def sees_only_the_past(config: object) -> bool:
    """Whether a token sees only those before it, by model type: decoders that are not also masked-language models."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    text = config.get_text_config()
    if (
        config.is_encoder_decoder
        or getattr(text, "use_bidirectional_attention", None)
        or getattr(text, "is_causal", None) is False
    ):
        return False
    names = {config.model_type, text.model_type}
    if names & set(MODEL_FOR_MASKED_LM_MAPPING_NAMES):
        return bool(getattr(text, "is_decoder", False))
    return bool(names & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))


def hidden_size_of(config: object) -> int:
    """Width of the states that a model of this configuration gives."""
    text = config.get_text_config()
    return int(getattr(text, "word_embed_proj_dim", None) or text.hidden_size)


def n_layers_of(config: object) -> int:
    """Layers of a model of this configuration; 0 where it names no number."""
    return int(getattr(config.get_text_config(), "num_hidden_layers", None) or 0)


# their positions are counted from pad_token_id + 1, in a table of max_position_embeddings rows
COUNTED_FROM_PAD = (
    "roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert", "data2vec-text", "ibert",
    "longformer", "mpnet", "xmod", "lilt", "layoutlmv3", "esm", "bertweet", "luke", "mluke", "clvp", "markuplm",
)  # fmt: skip


def longest_input(config: object, tokenizer: object) -> int:
    """The smaller of what the model's positions and its tokenizer allow; tokenizers without a limit say 1e30."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions and text.model_type in COUNTED_FROM_PAD:
        pad_id = getattr(text, "pad_token_id", None)
        positions -= (1 if pad_id is None else int(pad_id)) + 1
    limits = [positions, getattr(tokenizer, "model_max_length", None)]
    return int(min(limit for limit in (*limits, 10**9) if limit and limit > 0))


def special_ids(tokenizer: object, is_causal: bool) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after a text. A causal text is left open: nothing is put after it."""
    inside = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    around = list(tokenizer("a", add_special_tokens=True)["input_ids"])
    for start in range(len(around) - len(inside) + 1):
        if around[start : start + len(inside)] == inside:
            return around[:start], [] if is_causal else around[start + len(inside) :]
    return [], []


def mark_ids(tokenizer: Any) -> list[int]:
    """Special ids but the one for unknown words, which is text."""
    unknown = getattr(tokenizer, "unk_token_id", None)
    return [number for number in getattr(tokenizer, "all_special_ids", []) if number != unknown]


def end_of_turn(tokenizer: Any) -> int | None:
    """The special token that the chat template ends an answer with; None where it is none, or there is no template."""
    mark = answer_marks(tokenizer)[1]
    special = getattr(tokenizer, "added_tokens_decoder", {})
    ids = tokenizer(mark, add_special_tokens=False)["input_ids"] if mark.strip() else []
    first = next((place for place, token in enumerate(ids) if token in special), None)
    is_first = first is not None and not tokenizer.decode(ids[:first]).strip()
    return int(ids[first]) if is_first else None


def stop_ids(tokenizer: Any, model: Any) -> list[int]:
    """Tokens that end an answer: the tokenizer's eos, those of the model's generation configuration (one or a list),
    and what the chat template ends a turn with.

    Raises:
        ValueError: there are none.
    """
    of_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    of_model = of_model if isinstance(of_model, (list, tuple)) else [of_model]
    found = {int(i) for i in (*of_model, tokenizer.eos_token_id, end_of_turn(tokenizer)) if i is not None}
    if not found:
        raise ValueError("The tokenizer has no eos token, so no answer could end. Set tokenizer.eos_token.")
    return sorted(found)


def agree_on_marks(tokenizer: Any, model: Any) -> list[int]:
    """Call before a policy writes: what ends an answer ends it for the model's own `generate`, too, and a tokenizer
    without a pad token pads with its eos token, where padding is never read. Returns `stop_ids`.
    """
    stops = stop_ids(tokenizer, model)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.convert_ids_to_tokens(stops[0])
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = stops
    return stops


def tokenizer_content(tokenizer: object) -> str:
    """What decides the ids of a text; the tokenizer's momentary padding and truncation left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return json.dumps(sorted(tokenizer.get_vocab().items()))
    content = json.loads(backend.to_str())
    return json.dumps(
        {key: value for key, value in content.items() if key not in ("padding", "truncation")}, sort_keys=True
    )
