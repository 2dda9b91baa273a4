"""Judgements summed up by person and group, and weights that resample people: the arithmetic under GroupFrame.

A resample of people is a row of weights, how often each person was drawn. Sums and counts by (person, group) are
sparse matrices, so that any number of resamples is two matrix products and no loop over people, rows or groups.

People of a large stratum are resampled in packets put together at random, not one by one: the variance between packets
estimates that between people without bias (random groups, Wolter 2007, *Introduction to Variance Estimation*, chapter
2), and a thousand packets leave a standard error known to about two per cent, as a thousand resamples do.
"""

import copy

import numpy as np
from scipy import sparse

from palign.functional.evidence.positions import position_within

__all__ = ["N_PACKETS", "Clusters", "draw_weights"]

N_PACKETS = 1000  # of a stratum of more people than that


class Clusters:
    """Sums and counts of every metric by (person, group).

    Args:
        people: (n_rows,) integers 0…n_people-1, every one present.
        groups: (n_rows,) integers 0…n_groups-1.
        numbers: (n_rows, n_metrics) float64.
        by_annotator: replace sums by means and counts by one, so that every person counts the same.

    Attributes:
        n_annotators, n_judgements: (n_groups,) int.
        is_nested: every person stands in one group only.
        strata: (n_people,) int; within a stratum people are exchangeable. When nested: the group, those who are alone
            in their group being put together; else everybody is one stratum.
    """

    def __init__(
        self, people: np.ndarray, groups: np.ndarray, numbers: np.ndarray, n_groups: int, *, by_annotator: bool = False
    ) -> None:
        self.n_people, self.n_groups = int(people.max()) + 1, n_groups
        cells, inverse = np.unique(people.astype(np.int64) * n_groups + groups, return_inverse=True)
        cell_people, cell_groups = cells // n_groups, cells % n_groups
        counts = np.bincount(inverse, minlength=len(cells)).astype(float)
        sums = [np.bincount(inverse, weights=column, minlength=len(cells)) for column in numbers.T]
        self.n_annotators = np.bincount(cell_groups, minlength=n_groups)
        self.n_judgements = np.bincount(groups, minlength=n_groups)
        self.is_nested = len(cells) == self.n_people
        self._person_counts = np.bincount(people, minlength=self.n_people).astype(float)
        self._person_sums = np.stack(
            [np.bincount(people, weights=c, minlength=self.n_people) for c in numbers.T], axis=1
        )
        if by_annotator:
            sums, counts = [total / counts for total in sums], np.ones_like(counts)
            self._person_sums = self._person_sums / self._person_counts[:, None]
            self._person_counts = np.ones(self.n_people)
        shape = (self.n_people, n_groups)
        self._counts = sparse.csr_array((counts, (cell_people, cell_groups)), shape=shape)
        self._sums = [sparse.csr_array((total, (cell_people, cell_groups)), shape=shape) for total in sums]
        self._table = sparse.hstack([self._counts, *self._sums], format="csr")  # one product for all of them
        self._members = sparse.csr_array((np.ones(len(cells)), (cell_people, cell_groups)), shape=shape)
        alone = self.n_annotators[cell_groups] == 1
        self.strata = np.where(alone, n_groups, cell_groups) if self.is_nested else np.zeros(self.n_people, dtype=int)

    def group_means(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Mean by group, (n_groups, n_metrics); with weights (n, n_people): (n, n_groups, n_metrics). NaN if empty."""
        drawn = np.ones((1, self.n_people)) if weights is None else weights
        counts, *sums = np.split(drawn @ self._table, 1 + len(self._sums), axis=1)
        known = counts > 0
        means = [np.where(known, total / np.where(known, counts, 1.0), np.nan) for total in sums]
        stacked = np.stack(means, axis=-1)
        return stacked[0] if weights is None else stacked

    def people_agree(self) -> np.ndarray:
        """Whether a group has several people, who all have one and the same mean: (n_groups, n_metrics) bool."""
        counts, agree = self._counts.tocsc(), np.zeros((self.n_groups, len(self._sums)), dtype=bool)
        several = np.flatnonzero(self.n_annotators > 1)
        for place, total in enumerate(self._sums):
            means = sparse.csc_array(total).data / counts.data
            for_each = [np.full(self.n_groups, fill) for fill in (np.inf, -np.inf)]
            groups = np.repeat(np.arange(self.n_groups), np.diff(counts.indptr))
            np.minimum.at(for_each[0], groups, means)
            np.maximum.at(for_each[1], groups, means)
            agree[several, place] = (for_each[0] == for_each[1])[several]
        return agree

    def overall_means(self, weights: np.ndarray | None = None) -> np.ndarray:
        """Mean over everybody, (n_metrics,); with weights (n, n_people): (n, n_metrics)."""
        if weights is None:
            return self._person_sums.sum(0) / self._person_counts.sum()
        counts = (weights @ self._person_counts)[:, None]
        return np.where(counts > 0, (weights @ self._person_sums) / np.where(counts > 0, counts, 1.0), np.nan)

    def n_drawn(self, weights: np.ndarray) -> np.ndarray:
        """How many people of each group were drawn, (n, n_groups)."""
        return weights @ self._members

    def sums_by_person(self, by_group: np.ndarray) -> np.ndarray:
        """(n_groups, n) values of groups → (n_people, n), each person's the sum over the groups they stand in."""
        return self._members @ by_group

    def packed(self, most: int | None = None) -> "Clusters":
        """The same with packets in place of people in every stratum of more than `most` (default: `N_PACKETS`).

        Packets of a stratum differ by one person at most. `n_people` and `strata` are then those of packets, so
        that `draw_weights` draws them; counts of people and judgements stay.
        """
        most = N_PACKETS if most is None else most
        sizes = np.bincount(self.strata)
        if sizes.max() <= most:
            return self
        order = np.random.default_rng(0).permutation(self.n_people)
        order = order[np.argsort(self.strata[order], kind="stable")]
        place = position_within(sizes)
        n_packets = np.minimum(sizes, most)
        packet = np.repeat(n_packets.cumsum() - n_packets, sizes) + place % np.repeat(n_packets, sizes)
        shape = (int(n_packets.sum()), self.n_people)
        gather = sparse.csr_array((np.ones(self.n_people), (packet, order)), shape=shape)
        packed = copy.copy(self)
        packed.n_people, packed.strata = shape[0], np.repeat(np.arange(len(sizes)), n_packets)
        for name in ("_counts", "_table", "_members", "_person_counts", "_person_sums"):
            setattr(packed, name, gather @ getattr(self, name))
        packed._sums = [gather @ total for total in self._sums]
        return packed


def draw_weights(strata: np.ndarray, n_resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each person is drawn, (n_resamples, n_people): of n people in a stratum, n - 1 with replacement.

    A person alone in a stratum keeps weight 1. Weights of a stratum are scaled by n / (n - 1), so that strata keep
    their shares of the whole.
    """
    order = np.argsort(strata, kind="stable")
    sizes = np.unique(strata, return_counts=True)[1]
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    n_drawn = np.maximum(sizes - 1, 1)
    first, size = np.repeat(starts, n_drawn), np.repeat(sizes, n_drawn)
    factor = np.empty(len(strata))
    factor[order] = np.repeat(sizes / n_drawn, sizes)
    weights = np.empty((n_resamples, len(strata)))
    for row in range(n_resamples):
        places = (rng.random(len(size)) * size).astype(np.int64)
        np.minimum(places, size - 1, out=places)
        places += first
        np.multiply(np.bincount(order[places], minlength=len(strata)), factor, out=weights[row])
    return weights
