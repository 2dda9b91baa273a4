"""A language model that is shown a person's own earlier choices in its prompt, and was trained on nobody's."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from palign.data.preferences import Preferences
from palign.data.rendering import render_prompt
from palign.data.turns import in_turns, reads_plain
from palign.evaluation.judging.scores import over_items, per_item
from palign.functional.losses import implicit_reward
from palign.models.completions import TokenizedItems, policy_logps, prompt_ids
from palign.models.files.base_files import load_base, require_fitting
from palign.reading import reading

__all__ = ["IN_CONTEXT", "behind_choices", "in_context_scores", "shown_choices", "with_choices"]

IN_CONTEXT = "in context"  # its name in reports
OPENING = "Earlier choices of this reader:\n\n"
CHOICE = "Question: {prompt}\nThe reader preferred: {better}\nOver: {worse}\n\n"
CLOSING = "Now the reader asks:\n"
SHARE_OF_PROMPT = 0.75  # of max_length, at most


def shown_choices(earlier: Preferences, n_shown: int) -> dict[str, list[str]]:
    """Person → their latest choices, newest last: the best item of a row over its worst.

    Raises:
        ValueError: rows of vectors, which nobody can read.
    """
    if not earlier.is_text:
        raise ValueError("The earlier rows name vectors, and choices are shown as texts. Give rows of texts.")
    choices: dict[str, list[str]] = defaultdict(list)
    for person, items, ranks in zip(earlier.annotator_ids, earlier.item_indices, earlier.ranks, strict=True):
        real = np.flatnonzero(ranks >= 0)
        best, worst = items[real[ranks[real].argmin()]], items[real[ranks[real].argmax()]]
        prompt = _as_text(earlier.prompts[earlier.items[best][0]])
        better, worse = (_as_text(earlier.items[item][1]) for item in (best, worst))
        choices[person].append(CHOICE.format(prompt=prompt, better=better, worse=worse))
    return {person: texts[-n_shown:] for person, texts in choices.items()}


def _as_text(text: Any) -> str:
    return text.strip() if isinstance(text, str) else "\n".join(turn["content"] for turn in text).strip()


def with_choices(prompt: Any, choices: list[str]) -> Any:
    """A prompt with choices in front of what the person asks first; the prompt itself where there are none."""
    if not choices:
        return prompt
    before = OPENING + "".join(choices) + CLOSING
    if isinstance(prompt, str):
        return before + prompt
    number = next((i for i, turn in enumerate(prompt) if turn["role"] == "user"), None)
    if number is None:
        return prompt
    asked = {**prompt[number], "content": before + prompt[number]["content"]}
    return [*prompt[:number], asked, *prompt[number + 1 :]]


def behind_choices(
    prompt: Any, choices: list[str], read: Callable[[Any], list[int]], room: int | None
) -> tuple[Any, list[int], int]:
    """A prompt behind its person's choices, its token ids, and how many choices it shows.

    Args:
        read: a prompt → its token ids.
        room: tokens, at most: the oldest choices are left out of longer prompts; None: no limit.
    """
    shown, told = choices, with_choices(prompt, choices)
    ids = read(told)
    while shown and room is not None and len(ids) > room:
        shown = shown[1:]
        told = with_choices(prompt, shown)
        ids = read(told)
    return told, ids, len(shown)


@torch.no_grad()
def in_context_scores(
    model_path: str,
    earlier: Preferences,
    rows: Preferences,
    *,
    n_shown: int = 4,
    beta: float = 0.1,
    plain_prompts: bool = False,
    batch_size: int = 32,
    max_length: int = 1024,
    device: torch.device | str = "cpu",
    dtype: str = "auto",
) -> tuple[np.ndarray, int]:
    """Scores (n_rows, max_items): β · (log-probability with the choices − without), and rows with fewer than all.

    It is the implicit reward of the policy that is shown the choices, against the one that is not; 0 for people who
    made none.

    Args:
        model_path: a causal language model.
        earlier: rows that people gave before.
        n_shown: choices of a person, at most; fewer where the prompt would take more than `SHARE_OF_PROMPT` of
            `max_length`.
    """
    from transformers import AutoTokenizer

    model = load_base(model_path, dtype=dtype, divided=True).to(device).eval()
    with reading(model_path, "The tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(model_path)
    require_fitting(tokenizer, model, model_path)
    choices = shown_choices(earlier, n_shown)
    rows = rows if reads_plain(tokenizer, plain_prompts) else in_turns(rows)
    told, n_cut = _told(rows, choices, tokenizer, int(SHARE_OF_PROMPT * max_length))
    logps = []
    for prefs in (told, rows):
        items = TokenizedItems.of(prefs, tokenizer, max_length=max_length)
        values = over_items(items, lambda batch: policy_logps(model, **batch), batch_size, device, model=model)
        logps.append(per_item(prefs, values))
    scores = np.asarray(implicit_reward(*logps, beta=beta))
    scores[[not choices.get(person) for person in rows.annotator_ids]] = 0.0  # nothing shown: no rounding, a tie
    return scores, n_cut


def _told(rows: Preferences, choices: dict[str, list[str]], tokenizer: Any, room: int) -> tuple[Preferences, int]:
    """The same judgements, each on a prompt of its own that shows the person's choices; how many had to show fewer."""

    def read(prompt: Any) -> list[int]:
        return prompt_ids([render_prompt(prompt, tokenizer)], tokenizer)[0]

    prompts, items, n_cut = [], [], 0
    places = np.full_like(rows.item_indices, -1)
    for row, (person, of_row) in enumerate(zip(rows.annotator_ids, rows.item_indices, strict=True)):
        real = np.flatnonzero(of_row >= 0)
        bare, known = rows.prompts[rows.items[of_row[real[0]]][0]], choices.get(person, [])
        prompt, _, n_shown = behind_choices(bare, known, read, room)
        n_cut += n_shown < len(known)
        prompts.append(prompt)
        for column in real:
            places[row, column] = len(items)
            items.append((row, rows.items[of_row[column]][1]))
    told = replace(rows, prompts=prompts, items=items, item_indices=places, prompt_indices=np.arange(len(rows)))
    return told, n_cut
