"""Rows as a policy read them in training: with who is asking in the prompt, where `conditioning.json` says so."""

from dataclasses import replace

import numpy as np

from palign.conditioning import PolicyConditioning, WhoIsAsking, condition_prompt
from palign.data.preferences import Preferences
from palign.evaluation.judging.kinds import ModelSource

__all__ = ["conditioning_note", "tell_readers"]


def tell_readers(rows: Preferences, who: WhoIsAsking) -> Preferences:
    """The same judgements, each on a prompt that names its person's type; of people whom `who` lacks it stays bare."""
    type_names = [who.name(person) if person in who.types else None for person in rows.annotator_ids]
    prompt_of: dict[tuple[int, str | None], int] = {}
    item_of: dict[tuple[int, int], int] = {}
    places = np.full_like(rows.item_indices, -1)
    prompt_places = np.full_like(rows.prompt_indices, -1)
    for row, items in enumerate(rows.item_indices):
        for column in np.flatnonzero(items >= 0):
            key = (rows.items[items[column]][0], type_names[row])
            prompt = prompt_of.setdefault(key, len(prompt_of))
            places[row, column] = item_of.setdefault((prompt, int(items[column])), len(item_of))
            prompt_places[row] = prompt
    return replace(
        rows,
        prompts=[condition_prompt(rows.prompts[number], name) for number, name in prompt_of],
        items=[(prompt, rows.items[item][1]) for prompt, item in item_of],
        item_indices=places,
        prompt_indices=prompt_places,
    )


def conditioning_note(source: ModelSource, rows: Preferences) -> str | None:
    """One sentence on what a policy was told of who is asking, and is told here; None where nothing was."""
    if source.conditioning is PolicyConditioning.ADAPTER:
        return f"{source.name} is the adapter of one prototype, and is judged here for everybody."
    if source.conditioning is not PolicyConditioning.PROMPT:
        return None
    people = set(rows.annotator_ids)
    n_bare = len(people - WhoIsAsking.load(source.path).types.keys())
    known = f"{source.name} was trained on prompts that say who is asking, and so it reads them here"
    if not n_bare:
        return f"{known}: the type of all {len(people)} people is in its conditioning.json."
    return (
        f"{known}, but for {n_bare} of {len(people)} people whose type is not in its conditioning.json: their prompts "
        "are bare, which it never saw in training, and what is said of them says little."
    )
