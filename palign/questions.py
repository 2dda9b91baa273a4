"""Which comparison next? The pairs whose answers tell most about a person's weights in a PAL reward model.

A newcomer is somewhere among the people whom the model knows (`PALRewardModel.fit_annotators`). A pair on which those
people disagree places a newcomer. One that all of them answer alike, or that everybody answers by chance, does not.
The measure is the expected information of an answer (`palign.functional.evidence.questions`).

It is information about the weights over prototypes. What a person has of their own beside them (`personal_dim`) is not
asked for.
"""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.functional.evidence.questions import QuestionChoice, choose_questions
from palign.models.pal import PALRewardModel
from palign.models.people_fit import answers_on_support, log_likelihoods
from palign.models.states.evaluating import evaluating

__all__ = ["PANEL", "different_pairs", "next_questions"]

PANEL = "panel"  # whom questions are for that all people are asked
NOBODY = "-"  # in place of a person, in rows that are questions


def different_pairs(rows: Preferences, *, max_pairs: int | None = None, seed: int = 0) -> Preferences:
    """Every pair of completions that stands in a row, once, whoever judged it and whatever they said.

    Args:
        rows: pairs, or longer rankings, each of which gives all its pairs.
        max_pairs: most pairs to keep, drawn at random where there are more; None keeps all.
        seed: of that draw, and of which of the two stands first.

    Returns:
        (n_pairs) rows of two items; their order says nothing.
    """
    pairs: dict[tuple[int, int, int], None] = {}
    for items, prompt in zip(rows.item_indices.tolist(), rows.prompt_indices.tolist(), strict=True):
        shown = sorted({item for item in items if item >= 0})
        pairs.update(dict.fromkeys((prompt, *pair) for pair in itertools.combinations(shown, 2)))
    table = np.array(list(pairs), dtype=np.int64).reshape(-1, 3)
    rng = np.random.default_rng(seed)
    if max_pairs is not None and len(table) > max_pairs:
        table = table[np.sort(rng.choice(len(table), max_pairs, replace=False))]
    items = rng.permuted(table[:, 1:], axis=1)
    ids = np.full(len(table), NOBODY, dtype=object)
    ranks = np.tile(np.array([0, 1], dtype=np.int16), (len(table), 1))
    return Preferences(ids, items, ranks, table[:, 0], rows.prompts, rows.items, item_names=rows.item_names)


def next_questions(
    model: PALRewardModel,
    pairs: Preferences,
    n_questions: int,
    *,
    annotator_ids: Sequence[str] = ("newcomer",),
    answers: Preferences | None = None,
    asked: Preferences | None = None,
    together: bool = False,
    embeddings: np.ndarray | None = None,
    seed: int = 0,
    show_progress: bool = False,
) -> dict[str, QuestionChoice]:
    """Which of the pairs each person should be asked next, most telling first.

    Args:
        model: knows the population.
        pairs: what may be asked, rows of two items each (`different_pairs`).
        n_questions: for each person; fewer come back where fewer pairs are left.
        annotator_ids: whom to ask.
        answers: what they answered before. Who has no answer is a newcomer.
        asked: what they were asked before, ties among it, and are not asked again; `answers` if None.
        together: one list for all of them; a pair that anybody answered is not asked.
        embeddings: (n, hidden), where rows name vectors.
        seed: draws answers that may come, where there are too many ways.
        show_progress: of embedding texts.

    Returns:
        Person → `QuestionChoice`, whose `indices` are rows of `pairs`; one entry under `PANEL` if together.

    Raises:
        ValueError: no pairs, nobody to ask, a row of more or fewer than two items, or no pair is left for someone.
    """
    if not len(pairs) or not annotator_ids:
        raise ValueError(
            f"There are {len(pairs)} pairs and {len(annotator_ids)} people; at least one of each is needed."
        )
    if not (pairs.n_items == 2).all():
        row = int(np.flatnonzero(pairs.n_items != 2)[0])
        raise ValueError(f"Row {row} of pairs has {pairs.n_items[row]} items; make pairs of it by different_pairs.")
    people = AnnotatorIndex(dict.fromkeys(annotator_ids))
    answers = None if answers is None else _rows_of(answers, people)
    asked = answers if asked is None else _rows_of(asked, people)
    with evaluating(model), torch.no_grad():
        yes = _answer_probabilities(model, pairs, embeddings, show_progress)
        posterior = _posteriors(model, people, answers, embeddings)
    generator = torch.Generator().manual_seed(seed)
    groups = {PANEL: people.ids} if together else {person: [person] for person in people.ids}
    was_asked, keys, chosen = _asked_pairs(asked), _pair_keys(pairs), {}
    for name, members in groups.items():
        behind = set().union(*(was_asked.get(member, set()) for member in members))
        left = torch.tensor([row for row, (key,) in enumerate(keys) if key not in behind], dtype=torch.int64)
        if not len(left):
            raise ValueError(
                f"All {len(pairs)} pairs were asked of {name!r} before. Give further pairs to choose from."
            )
        choice = choose_questions(
            yes[left],
            posterior[people.indices(members)],
            n_questions,
            generator=generator,
            items=torch.from_numpy(pairs.item_indices)[left],
        )
        chosen[name] = QuestionChoice(left[choice.indices], choice.information)
    return chosen


def _rows_of(answers: Preferences, people: AnnotatorIndex) -> Preferences:
    return answers.select(people.indices(answers.annotator_ids, unknown=-1) >= 0)


def _answer_probabilities(
    model: PALRewardModel, pairs: Preferences, embeddings: np.ndarray | None, show_progress: bool
) -> Tensor:
    """(n_pairs, n_support): that a member of the population prefers the first item."""
    apart = np.arange(len(pairs))  # questions are no answers of one person: none counts less beside another
    data = model.row_tensors(pairs, embeddings, annotator_index=apart, show_progress=show_progress)
    parts = [part.exp().clamp(0, 1) for _, part in log_likelihoods(model.head, data, model.people.support)]
    return torch.cat(parts).cpu()


def _posteriors(
    model: PALRewardModel, people: AnnotatorIndex, answers: Preferences | None, embeddings: np.ndarray | None
) -> Tensor:
    """(n_people, n_support), rows on the simplex: where each person may be, after their answers."""
    log_prior = model.people.log_prior.double().log_softmax(0).cpu()
    if answers is None or not len(answers):
        return log_prior.exp().expand(len(people), -1)
    data = model.row_tensors(answers, embeddings, annotator_index=people.indices(answers.annotator_ids))
    total = answers_on_support(model.head, model.people, data.as_comparisons(), len(people))
    return (log_prior + total.cpu()).softmax(1)


def _asked_pairs(asked: Preferences | None) -> dict[str, set[Any]]:
    """Person → keys of the pairs they were asked."""
    keys_of: dict[str, set[Any]] = {}
    if asked is not None:
        for person, keys in zip(asked.annotator_ids.tolist(), _pair_keys(asked), strict=True):
            keys_of.setdefault(person, set()).update(keys)
    return keys_of


def _pair_keys(rows: Preferences) -> list[list[Any]]:
    """For each row, its pairs as (prompt, {item, item}) by content: two sets of rows number their texts each anew."""
    if rows.is_text:
        prompts = [json.dumps(prompt) for prompt in rows.prompts]
        items = [json.dumps(text) for _, text in rows.items]
    keys = []
    for numbers, prompt in zip(rows.item_indices.tolist(), rows.prompt_indices.tolist(), strict=True):
        shown = [items[number] if rows.is_text else number for number in numbers if number >= 0]
        name = prompt if not rows.is_text else prompts[prompt] if prompt >= 0 else None
        keys.append([(name, frozenset(pair)) for pair in itertools.combinations(shown, 2)])
    return keys
