"""Would it matter if the names of the annotators were shuffled? A look without a model, before anything is trained."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, svds
from scipy.sparse.linalg import norm as sparse_norm

from palign.data.guards.finding import N_SAMPLED, Finding, Pairs, plain_text
from palign.data.preferences import Preferences
from palign.functional.evidence.components import evidence_of_rows, independent_people, item_components
from palign.functional.evidence.parts import part_rows
from palign.functional.evidence.positions import position_within

__all__ = ["check_names"]

HEADING = 0.2  # share of the rows under one prompt
GAIN, N_WORDS, N_SHUFFLES, N_DIRECTIONS = 0.03, 4096, 3, 4
_WORD = re.compile(r"\w+")


def check_names(
    prefs: Preferences, *, embeddings: np.ndarray | None = None, split: str = "", seed: int = 0
) -> Finding:
    """Do names carry information? A person's answers to half of the prompts, less what everybody says, as a direction
    in the space of words (or vectors, or known items); how often does it tell that person's other answers, and how
    often when names are shuffled over the rows? Where prompts are few, the halves share no item of a person's, and
    rows that are joined by shared items keep one name when names are shuffled: pairs made of one person's votes tell
    one another, whoever that person is.

    Says "look" only where the gain is surely below three points of accuracy; too few rows to tell are "ok".
    """
    pairs = _largest_people(prefs, seed)
    if pairs is None:
        return Finding.of("names", "ok", 0.0, "too few annotators with several rows to tell what names are worth.")
    features = _difference_features(prefs, pairs, embeddings)
    rng = np.random.default_rng(seed)
    half = _halves(pairs, rng)
    if (half >= 0).sum() < 200:
        return Finding.of("names", "ok", 0.0, "too few rows that share no item to tell what names are worth.")
    features, pairs, half = features[half >= 0], _some(pairs, half >= 0), half[half >= 0]
    units = _units(pairs, half)
    (accuracy, spread, n), shuffled = max(
        (
            _against_shuffled(features, pairs.people, half, units, n_directions, rng)
            for n_directions in (None, N_DIRECTIONS)
        ),
        key=lambda comparison: comparison[0][0] - comparison[1],  # (accuracy, …), accuracy if shuffled
    )
    gain = accuracy - shuffled
    sentence = (
        f"A person's other answers tell {accuracy:.1%} of {n:,} answers beyond what everybody says, "
        f"{shuffled:.1%} with names shuffled"
    )
    if n < len(pairs) / 2 or gain + 1.5 * spread >= GAIN:
        return Finding.of("names", "ok", gain, f"{sentence}.")
    return Finding.of(
        "names",
        "look",
        gain,
        f"{sentence}: as far as words and length show, it does not matter who judged. Types found here may be chance; "
        "compare with one type, and train once with annotator ids shuffled.",
        (),
        split,
    )


def _largest_people(prefs: Preferences, seed: int) -> Pairs | None:
    """Rows of people who gave four or more, at most 100 of each and N_SAMPLED in all; None below 200 rows."""
    everybody = Pairs.of(prefs)
    order = np.random.default_rng(seed).permutation(len(prefs))
    order = order[np.argsort(everybody.people[order], kind="stable")]
    count = np.bincount(everybody.people)
    within = position_within(count)
    order = order[(within < 100) & (count[everybody.people[order]] >= 4)]
    people = np.unique(everybody.people[order])
    if len(people) < 4 or len(order) < 200:
        return None
    chosen = np.random.default_rng(seed).permutation(people)
    kept = np.cumsum(np.minimum(count[chosen], 100)) <= N_SAMPLED
    return Pairs.of(prefs, order[np.isin(everybody.people[order], chosen[kept])])


def _halves(pairs: Pairs, rng: np.random.Generator) -> np.ndarray:
    """(n,) 0 or 1: by prompt, so that two rankings of the same completions fall together; by item where prompts are
    few, or one of them is a heading over much: then a half would hold topics that the other knows nothing of. −1 are
    rows with an item in either half."""
    prompts, group, count = np.unique(pairs.prompts, return_inverse=True, return_counts=True)
    if len(prompts) >= 10 and count.max() < HEADING * len(pairs):
        return rng.integers(2, size=len(prompts))[group]
    items, ranks = np.stack([pairs.best, pairs.worst], 1), np.tile([0, 1], (len(pairs), 1))
    independent = independent_people(evidence_of_rows(items, ranks, pairs.people), pairs.people)
    parts = part_rows(items, ranks, pairs.people, fraction=0.5, rng=rng, independent=independent)
    half = np.full(len(pairs), -1)
    half[parts.first.rows], half[parts.second.rows] = 0, 1
    return half


def _units(pairs: Pairs, half: np.ndarray) -> np.ndarray:
    """(n,) numbers: rows of one person and half that are joined by shared items have the same one, unless they are
    independent judgements."""
    items, ranks = np.stack([pairs.best, pairs.worst], 1), np.tile([0, 1], (len(pairs), 1))
    units = item_components(items, ranks, 2 * pairs.people + half)
    alone = independent_people(evidence_of_rows(items, ranks, pairs.people), pairs.people)[pairs.people]
    return np.where(alone, units.max(initial=0) + 1 + np.arange(len(units)), units)


def _some(pairs: Pairs, keep: np.ndarray) -> Pairs:
    names = ("rows", "people", "best", "worst", "prompts")
    return replace(pairs, **{name: getattr(pairs, name)[keep] for name in names})


def _shuffled(people: np.ndarray, half: np.ndarray, units: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Names dealt anew over the units of each half."""
    first = np.unique(units, return_index=True)[1]
    owner, half_of_unit = people[first], half[first]
    for part in (0, 1):
        owner[half_of_unit == part] = rng.permutation(owner[half_of_unit == part])
    return owner[np.unique(units, return_inverse=True)[1]]


def _against_shuffled(
    features: sparse.csr_matrix,
    people: np.ndarray,
    half: np.ndarray,
    units: np.ndarray,
    n_directions: int | None,
    rng: np.random.Generator,
) -> tuple[tuple[float, float, int], float]:
    """What `_accuracy_across_halves` gives, and its mean accuracy under shuffled names."""
    estimate = _accuracy_across_halves(features, people, half, n_directions)
    shuffled = [
        _accuracy_across_halves(features, _shuffled(people, half, units, rng), half, n_directions)[0]
        for _ in range(N_SHUFFLES)
    ]
    return estimate, float(np.mean(shuffled))


def _accuracy_across_halves(
    features: sparse.csr_matrix, people: np.ndarray, half: np.ndarray, n_directions: int | None
) -> tuple[float, float, int]:
    """How well a person's rows of one half tell those of the other: the accuracy, its standard error clustered by
    person, and the number of answers that it speaks of.

    Args:
        n_directions: people are compared along so many directions in which they differ most (a handful of types seen
            through few rows of each person); None takes the whole space (many rows of each).
    """
    people = np.unique(people, return_inverse=True)[1]
    n_people, score = int(people.max()) + 1, np.zeros(len(people))
    for part in (0, 1):
        given, asked = np.flatnonzero(half != part), np.flatnonzero(half == part)
        if not len(given) or not len(asked):
            continue
        adder = sparse.csr_matrix((np.ones(len(given)), (people[given], given)), shape=(n_people, len(people)))
        sums, count = (adder @ features).tocsr(), np.bincount(people[given], minlength=n_people)
        everybody = np.asarray(features[given].mean(axis=0)).ravel()
        if n_directions is None:
            likeness = np.asarray(features[asked].multiply(sums[people[asked]]).sum(axis=1)).ravel()
            score[asked] = likeness - count[people[asked]] * (features[asked] @ everybody)
        else:
            directions = _directions(sums, count, everybody, n_directions)
            places = sums @ directions - np.outer(count, everybody @ directions)
            score[asked] = ((features[asked] @ directions) * places[people[asked]]).sum(axis=1)
    spoken = np.abs(score) > 1e-12
    right, n = (score > 0)[spoken].astype(float), max(int(spoken.sum()), 1)
    accuracy = float(right.sum() / n)
    by_person = np.bincount(people[spoken], right - accuracy)
    return accuracy, float(np.sqrt(np.square(by_person).sum()) / n), n


def _directions(sums: sparse.csr_matrix, count: np.ndarray, everybody: np.ndarray, n: int) -> np.ndarray:
    """(width, n): leading right singular vectors of everybody's sums less what all say, which is never written out."""
    operator = LinearOperator(
        sums.shape,
        matvec=lambda v: sums @ v.ravel() - count * (everybody @ v.ravel()),
        rmatvec=lambda u: sums.T @ u.ravel() - everybody * (count @ u.ravel()),
        dtype=np.float64,
    )
    n = min(n, min(sums.shape) - 1)
    start = np.random.default_rng(0).standard_normal(min(sums.shape))  # ones would vanish where tastes are opposite
    return svds(operator, k=n, v0=start, maxiter=200, tol=1e-3)[2].T


def _difference_features(prefs: Preferences, pairs: Pairs, embeddings: np.ndarray | None) -> sparse.csr_matrix:
    """(n, width): what the better item has and the worse one has not, by words, vectors or known items."""
    used, inverse = np.unique(np.r_[pairs.best, pairs.worst], return_inverse=True)
    if prefs.is_text:
        items = _bag_of_words([plain_text(prefs.items[item][1]) for item in used])
    elif embeddings is not None:
        vectors = np.asarray(embeddings[used], dtype=np.float64)
        items = sparse.csr_matrix(vectors - vectors.mean(axis=0))
    else:
        items = sparse.identity(len(used), format="csr")
    return (items[inverse[: len(pairs)]] - items[inverse[len(pairs) :]]).tocsr()


def _bag_of_words(texts: Sequence[str]) -> sparse.csr_matrix:
    """(n, N_WORDS + 1): which words a text has, by log inverse document frequency, of norm 1; and its length."""
    columns, starts = [], [0]
    for text in texts:
        columns += {zlib.crc32(word.encode()) % N_WORDS for word in _WORD.findall(text[:4000].lower())}
        starts.append(len(columns))
    bag = sparse.csr_matrix((np.ones(len(columns)), columns, starts), shape=(len(texts), N_WORDS))
    frequency = np.maximum(np.bincount(columns, minlength=N_WORDS), 1)
    weighed = bag @ sparse.diags(np.log(1 + len(texts) / frequency))
    norm = np.maximum(sparse_norm(weighed, axis=1), 1e-9)
    length = np.log1p([len(text) for text in texts])
    length = (length - length.mean()) / max(length.std(), 1e-9)
    return sparse.hstack([sparse.diags(1 / norm) @ weighed, sparse.csr_matrix(0.3 * length[:, None])]).tocsr()
