"""The best single policy of the text population, exactly: a linear programme over what its grammar can write.

A gold utility depends on a text by its attributes alone: distinct cheerful words, distinct hedges, words. Those that
one to three clauses can have are enumerated here (`writable_attributes`). A policy that everybody shares is a
distribution over them, and the utility that the worst-served type gets is at most

    max over distributions p of min_i Σ_a p(a) u_i(a),

the value of a matrix game, which is solved without rounding. No policy that writes texts of the grammar does better
for that type; faults (a repeated word, no final stop) cost all types alike and are never best.
"""

from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import numpy as np

from palign.data.synthetic_text import CHEERFUL_WORDS, DETAILS, HEDGES, TASTES
from palign.functional.regret_game import solve_matrix_game

__all__ = ["BestPolicy", "best_single_policy", "writable_attributes"]

Attributes = tuple[int, int, int]  # distinct cheerful words, distinct hedges, words

# a clause: cheerful words free to choose, "seems" or "might", hedges free to choose, words without a detail
CLAUSES = (
    (1, "", 0, 4), (2, "", 0, 3),  # the park is lovely! / lovely and great!
    (0, "", 1, 5), (0, "seems", 1, 5), (0, "might", 1, 6),  # perhaps the park is new. / … seems … / … might be …
    (0, "", 0, 4), (0, "", 0, 6), (0, "", 0, 3),  # the park is new. / the park is new and old. / it is new.
)  # fmt: skip


@dataclass(frozen=True)
class BestPolicy:
    """The single policy that serves the worst-served type best.

    Attributes:
        value: utility of the type served worst.
        by_type: (n_types,) utility of each.
        most: (n_types,) utility of the best text for each type alone.
        texts: attributes of the texts it writes, with their probabilities.
    """

    value: float
    by_type: np.ndarray
    most: np.ndarray
    texts: dict[Attributes, float]


def best_single_policy(types: tuple[str, ...]) -> BestPolicy:
    """max over policies of the least utility of the types, over all texts of the grammar.

    Args:
        types: names out of `TASTES`.

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in types if name not in TASTES]
    if unknown or not types:
        raise ValueError(f"types={types!r} holds unknown names {unknown}; choose from {sorted(TASTES)}.")
    texts = writable_attributes()
    utilities = np.array([[TASTES[name].utility(*text) for text in texts] for name in types])
    different, first = np.unique(utilities, axis=1, return_index=True)
    most = float(utilities.max())
    solution = solve_matrix_game(most - different)  # never negative, so that its value is that of the game
    weights = solution.column_weights
    return BestPolicy(
        value=most - solution.value,
        by_type=different @ weights,
        most=utilities.max(1),
        texts={texts[first[j]]: float(weights[j]) for j in np.flatnonzero(weights)},
    )


def writable_attributes() -> list[Attributes]:
    """Attributes of all texts of one to three clauses; a text of one or two has details in all clauses, or in none."""
    details = sorted({len(detail.split()) for detail in DETAILS})
    texts: set[Attributes] = set()
    for n_clauses in (1, 2, 3):
        lengths = {0} | ({sum(kind) for kind in product(details, repeat=n_clauses)} if n_clauses < 3 else set())
        for clauses in combinations_with_replacement(CLAUSES, n_clauses):
            n_words = sum(clause[3] for clause in clauses)
            for cheerful, hedges in product(_cheerful_counts(clauses), _hedge_counts(clauses)):
                texts |= {(cheerful, hedges, n_words + added) for added in lengths}
    return sorted(texts)


def _cheerful_counts(clauses: tuple[tuple[int, str, int, int], ...]) -> range:
    """Distinct cheerful words: those of one clause differ, those of several may be the same."""
    slots = [clause[0] for clause in clauses]
    return range(max(slots), min(sum(slots), len(CHEERFUL_WORDS)) + 1)


def _hedge_counts(clauses: tuple[tuple[int, str, int, int], ...]) -> range:
    """Distinct hedges: "seems" and "might" count once each, and the words that are free to choose are others."""
    fixed, n_free = len({clause[1] for clause in clauses} - {""}), sum(clause[2] for clause in clauses)
    return range(fixed + min(n_free, 1), fixed + min(n_free, len(HEDGES) - 2) + 1)
