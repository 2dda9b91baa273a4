"""What each prototype or type likes: the texts it scores highest and lowest, and the words that tell it from others.

A score is taken against the mean over all types and, within each row, over the row's completions: what everybody
likes, and what a prompt is about, says nothing of a type. Words are those whose texts a type scores higher than texts
without them, by Welch's t over texts, of words that stand in `LEAST_TEXTS` texts or more.
"""

import re
from collections.abc import Sequence

import numpy as np

from palign.evaluation.pages.report_keys import LikesRecord

__all__ = ["extremes", "mean_contrasts", "type_likes"]

N_TEXTS, N_WORDS, LEAST_TEXTS = 3, 6, 5
LONGEST = 80  # characters of a text that are shown
SURE = 2.5  # t from which on a word is named
MOST_TEXTS = 20_000  # that words are counted in
_WORD = re.compile(r"[^\W\d_]{3,}")


def type_likes(names: Sequence[str], texts: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> list[LikesRecord]:
    """A record for each type; nothing for one type alone.

    Args:
        names: (n_types,).
        texts: (n,) completions, or what names them where items are vectors.
        scores: (n, n_types) reward of each completion to each type.
        rows: (n,) which row each completion stands in.
    """
    if len(names) < 2 or len(texts) < 2 * N_TEXTS:
        return []
    keys, mean = mean_contrasts(texts, scores, rows)
    records: list[LikesRecord] = []
    for k, name in enumerate(names):
        most, least = ([_short(keys[i]) for i in part] for part in extremes(mean[:, k], N_TEXTS))
        words, other_words = _telling_words(keys[:MOST_TEXTS], mean[:MOST_TEXTS, k])
        records.append({"type": str(name), "most": most, "least": least, "words": words, "other_words": other_words})
    return records


def mean_contrasts(texts: Sequence[str], scores: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different texts (n_texts,), and how much more each type likes them than the others do (n_texts, n_types).

    Arguments as those of `type_likes`.
    """
    contrasts = _contrasts(np.asarray(scores, dtype=float), np.asarray(rows))
    keys, inverse = np.unique(np.asarray(texts, dtype=object).astype(str), return_inverse=True)
    counts = np.bincount(inverse)
    return keys, np.stack([np.bincount(inverse, column) / counts for column in contrasts.T], 1)


def extremes(values: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the `n` largest values, largest first, and of the `n` smallest, smallest first."""
    order = np.argsort(-values, kind="stable")
    return order[:n], order[::-1][:n]


def _contrasts(scores: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Scores less the mean over types, and less the mean of the row."""
    scores = scores - scores.mean(1, keepdims=True)
    row = np.unique(rows, return_inverse=True)[1]
    counts = np.bincount(row)
    means = np.stack([np.bincount(row, column) / counts for column in scores.T], 1)
    return scores - means[row]


def _telling_words(texts: Sequence[str], values: np.ndarray) -> tuple[list[str], list[str]]:
    """Words that tell a type from the others: of the greatest t, and of the least."""
    text_numbers: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        for word in set(_WORD.findall(text.lower())):
            text_numbers.setdefault(word, []).append(i)
    n, total, squares = len(texts), values.sum(), np.square(values).sum()
    tells = {}
    for word, places in text_numbers.items():
        m = len(places)
        if not LEAST_TEXTS <= m <= n - LEAST_TEXTS:
            continue
        inside, square = values[places].sum(), np.square(values[places]).sum()
        means = inside / m, (total - inside) / (n - m)
        variance = (square / m - means[0] ** 2) / m + ((squares - square) / (n - m) - means[1] ** 2) / (n - m)
        tells[word] = (means[0] - means[1]) / max(variance, 1e-12) ** 0.5
    order = sorted(tells, key=lambda word: -tells[word])
    liked = [word for word in order[:N_WORDS] if tells[word] > SURE]
    return liked, [word for word in order[::-1][:N_WORDS] if tells[word] < -SURE]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
