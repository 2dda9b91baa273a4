"""Two parts of one preference set, by annotator, by prompt or by row.

`fraction` is always the share of the SECOND part. The same set, fraction and seed give the same parts.
"""

import numpy as np

from palign.data.guard_finding import row_hashes
from palign.data.preferences import Preferences

__all__ = ["split_by_annotator", "split_by_prompt", "split_by_row"]


def split_by_annotator(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(seen, unseen): `fraction` of the people, with all their rows, are unseen.

    Raises:
        ValueError: a fraction outside (0, 1), or too few people for two parts.
    """
    annotators = prefs.annotators()
    return _split_by_group(
        prefs, annotators.indices(prefs.annotator_ids), len(annotators), fraction, seed, "annotator"
    )


def split_by_prompt(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(first, second): no prompt occurs in both, `fraction` of the prompts are in the second.

    Raises:
        ValueError: a fraction outside (0, 1), or too few prompts for two parts.
    """
    prompts, group = np.unique(prefs.prompt_indices, return_inverse=True)
    return _split_by_group(prefs, group, len(prompts), fraction, seed, "prompt")


def split_by_row(prefs: Preferences, *, fraction: float, seed: int) -> tuple[Preferences, Preferences]:
    """(first, second): `fraction` of every annotator's rows are in the second.

    What does not come out even is drawn, so that the share is right over everybody; nobody is left without a row in
    the first part. Judgements of the same completions by the same person, whichever way, are never parted, and count
    once.

    Raises:
        ValueError: a fraction outside (0, 1), or a part without rows.
    """
    _check_fraction(fraction)
    rng = np.random.default_rng(seed)
    annotators = prefs.annotators()
    people = annotators.indices(prefs.annotator_ids)
    first, judgement = _distinct_judgements(prefs, people)
    group = people[first]
    counts = np.bincount(group, minlength=len(annotators))
    wanted = counts * fraction
    n_second = np.minimum(np.floor(wanted + rng.random(len(counts))).astype(np.int64), counts - 1)
    shuffled = rng.permutation(len(group))
    by_group = shuffled[np.argsort(group[shuffled], kind="stable")]
    within = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts, counts)
    is_second = np.zeros(len(group), dtype=bool)
    is_second[by_group] = within < n_second[group[by_group]]
    in_second = is_second[judgement]
    if not in_second.any():
        raise ValueError(
            f"A split of {len(prefs)} rows by {len(annotators)} annotators with fraction {fraction} leaves nothing "
            "for the second part: every annotator keeps a row in the first. Give more rows or a larger fraction."
        )
    return prefs.select(~in_second), prefs.select(in_second)


def _distinct_judgements(prefs: Preferences, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of who judged what: the first row of each different judgement, in order, and which one each row (n_rows,) is."""
    keys = row_hashes(people, prefs.prompt_indices, np.sort(prefs.item_indices, axis=1))
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    return first[order], np.argsort(order)[inverse]


def _split_by_group(
    prefs: Preferences, group: np.ndarray, n_groups: int, fraction: float, seed: int, what: str
) -> tuple[Preferences, Preferences]:
    _check_fraction(fraction)
    if n_groups < 2:
        raise ValueError(
            f"A split by {what} needs at least two of them; these rows have {n_groups}. Split another way "
            "(split_by_row, split_by_prompt, split_by_annotator)."
        )
    n_second = min(max(round(fraction * n_groups), 1), n_groups - 1)
    chosen = np.zeros(n_groups, dtype=bool)
    chosen[np.random.default_rng(seed).permutation(n_groups)[:n_second]] = True
    return prefs.select(~chosen[group]), prefs.select(chosen[group])


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is the share of the second part, strictly between 0 and 1, not {fraction!r}.")
