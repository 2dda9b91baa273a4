"""What a reward model is asked to score: texts or vectors, and for whom. Checked, and turned into pooled states."""

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from palign.data.rendering import render_completion, render_prompt
from palign.data.turns import answers_as_turns, as_turns
from palign.parallel.sharded import any_process, forwards, turns

if TYPE_CHECKING:
    from palign.models.backbones import Backbone

__all__ = [
    "checked_weights", "part_starts", "require_same_length", "states_in_parts", "states_once", "text_states",
    "vector_states",
]  # fmt: skip

SUM_TOLERANCE = 1e-3
BAR_FROM = 1_000  # texts
FILLER = "a"  # what a process reads that has nothing left of its own


def require_same_length(prompts: Any, completions: Any, *, needs_prompts: bool) -> None:
    """One prompt for each completion; None where no prompts are needed."""
    for name, values in (("prompts", prompts), ("completions", completions)):
        if isinstance(values, str):
            raise TypeError(
                f"{name} is a single text, {values[:40]!r}; give a list with one entry for each completion."
            )
    if prompts is None and needs_prompts:
        raise ValueError(
            "prompts is None, and this model reads them: give one for each completion (only a `fixed` model of "
            "vectors does without)."
        )
    if prompts is not None and len(prompts) != len(completions):
        raise ValueError(
            f"{len(completions)} completions came with {len(prompts)} prompts; give one prompt for each completion."
        )


def checked_weights(weights: Any, n_rows: int, n_prototypes: int, device: torch.device) -> Tensor:
    """Weights (n_rows, n_prototypes) on the simplex, out of those or of one (n_prototypes,) for all rows."""
    row_weights = torch.as_tensor(weights, dtype=torch.float32, device=device)
    row_weights = row_weights.expand(n_rows, -1) if row_weights.dim() == 1 else row_weights
    if row_weights.shape != (n_rows, n_prototypes):
        raise ValueError(
            f"weights have shape {tuple(row_weights.shape)}; {n_rows} completions and {n_prototypes} prototypes need "
            f"({n_rows}, {n_prototypes}), or ({n_prototypes},) for all of them."
        )
    off = ~((row_weights >= -1e-6).all(1) & ((row_weights.sum(1) - 1).abs() <= SUM_TOLERANCE))  # NaN is off as well
    if off.any():
        row = int(off.nonzero()[0])
        shown = ", ".join(f"{number:.4g}" for number in row_weights[row, :8].tolist())
        raise ValueError(
            f"Row {row} (counting from 0) of weights is ({shown}), with sum {float(row_weights[row].sum()):.4g}; "
            "weights must be 0 or more and each row must sum to 1."
        )
    return row_weights


def vector_states(vectors: Any, hidden_size: int, device: torch.device) -> Tensor:
    """Ready vectors (batch, hidden_size) as float32; ValueError for another shape, NaN or infinity."""
    array = vectors.detach().float().cpu() if isinstance(vectors, Tensor) else np.asarray(vectors, dtype=np.float32)
    states = torch.as_tensor(array, device=device)
    if states.dim() != 2 or states.shape[1] != hidden_size:
        raise ValueError(
            f"This model has no backbone and takes vectors (batch, {hidden_size}); given was shape "
            f"{tuple(states.shape)}."
        )
    bad = ~states.isfinite().all(1)
    if bad.any():
        raise ValueError(f"Vector {int(bad.nonzero()[0])} (counting from 0 in its batch) holds NaN or infinity.")
    return states


def part_starts(n: int, size: int, model: Any) -> Iterator[int]:
    """Where parts of `size` of `n` begin. Where `model` is divided, there are as many as on the busiest process, the
    further ones at `n`, where nothing is left.
    """
    starts = range(0, n, size)
    if not isinstance(model, nn.Module):
        yield from starts
        return
    for start, _ in turns(starts, n, model):
        yield start


def states_in_parts(
    backbone: "Backbone", prompts: Sequence[Any], completions: Sequence[Any], *, batch_size: int, **options: bool
) -> Tensor:
    """Pooled states (n, hidden) of completions by :func:`text_states`, in their order; of a divided backbone all
    processes give the same texts.
    """
    parts = [slice(start, start + batch_size) for start in range(0, len(completions), batch_size)]
    with forwards(backbone.model):
        return torch.cat([text_states(backbone, prompts[part], completions[part], **options)[0] for part in parts])


def states_once(
    backbone: "Backbone", prompts: Sequence[Any], completions: Sequence[Any], *, batch_size: int, **options: bool
) -> tuple[Tensor, Tensor | None]:
    """:func:`text_states` of any number of texts: each different one is read once, those of like length together.

    A bar shows how far it is where there are more than `BAR_FROM` different ones and it takes longer than a second.
    Where the backbone is divided, all processes call this, each with its own texts or with none.
    """
    keys = [(_key(prompt), _key(completion)) for prompt, completion in zip(prompts, completions, strict=True)]
    first: dict[tuple[str, str], int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    order = sorted(first, key=lambda key: -len(key[0]) - len(key[1]))
    parts, place = [], {key: number for number, key in enumerate(order)}
    bar = tqdm(total=len(order), desc="scoring", unit="text", disable=len(order) <= BAR_FROM, delay=1)
    with bar, forwards(backbone.model):
        for start, is_own in turns(range(0, len(order), batch_size), 0, backbone.model):
            if not is_own:
                text_states(backbone, [FILLER], [FILLER], **options)
                continue
            rows = [first[key] for key in order[start : start + batch_size]]
            parts.append(text_states(backbone, [prompts[r] for r in rows], [completions[r] for r in rows], **options))
            bar.update(len(rows))
    if not parts:
        return torch.empty(0, backbone.hidden_size, device=backbone.device), None
    back = torch.tensor([place[key] for key in keys], device=parts[0][0].device)
    states, prompt_states = zip(*parts, strict=True)
    return torch.cat(states)[back], None if prompt_states[0] is None else torch.cat(prompt_states)[back]


def _key(text: Any) -> str:
    """What tells a text from others; messages by all that is in them."""
    return text if isinstance(text, str) else "\0" + json.dumps(text, sort_keys=True, default=repr)


def text_states(
    backbone: "Backbone",
    prompts: Sequence[Any],
    completions: Sequence[Any],
    *,
    with_prompts: bool,
    plain_prompts: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Pooled states of completions (batch, hidden) and, on request, of their prompts.

    A causal pass holds the prompt's state too. It is read alone, each different one once, by an encoder, and where
    prompts were cut to make room for their completions: a prompt then has one state whatever follows it.
    `plain_prompts`: plain texts are read bare; else as turns.
    """
    if not plain_prompts:
        prompts, completions = as_turns(prompts), answers_as_turns(prompts, completions)
    prompt_texts = [render_prompt(prompt, backbone.tokenizer) for prompt in prompts]
    completion_texts = [render_completion(p, c, backbone.tokenizer) for p, c in zip(prompts, completions, strict=True)]
    texts = backbone.tokenize(prompt_texts, completion_texts)
    batch = backbone.collate(texts)
    if not with_prompts:
        return backbone.pooled(batch), None
    was_cut = any(text.prompt_was_cut for text in texts)
    if backbone.is_causal and not any_process(was_cut, backbone.model):  # all read as often
        return tuple(backbone(**batch))
    row_of = {text: row for row, text in enumerate(dict.fromkeys(prompt_texts))}
    alone = backbone.encode(list(row_of))
    pooled = backbone.pooled(alone)
    return backbone.pooled(batch), pooled[[row_of[text] for text in prompt_texts]]
