"""Parts of the people held out in turn, and heads fitted on the others: what the choices of a reward are judged by.

How K is chosen from it, and why the parts share no item: `palign.trainers.reward.prototype_count`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from palign.functional.evidence.components import evidence_of_rows, independent_people
from palign.functional.evidence.parts import RowParts, part_rows
from palign.functional.losses import pair_order, plackett_luce
from palign.functional.mixture import sum_by_annotator
from palign.functional.mixture_type_count import paired_gain
from palign.functional.people_deviations import fit_deviations, principal_basis
from palign.functional.people_sample import draw_people
from palign.models.heads import PointHead
from palign.models.pal_config import PALConfig
from palign.models.people_fit import fit_people, scores_of
from palign.models.people_weights import AnnotatorWeights
from palign.models.row_tensors import RowTensors
from palign.trainers.reward.head_fit import HeadFitOptions, fit_head
from palign.trainers.reward.linear_fit import LinearFitOptions, fit_linear_head, items_recur

__all__ = [
    "HeldOutTrial", "Judged", "Personal", "eligible_people", "fit_fresh_head", "personal_basis", "standardize",
]  # fmt: skip

LINEAR_WORTH = 0.003  # of the log-likelihood: what a linear head, or another prototype of one, must bring
HELD_OUT = 0.25
N_FOLDS = 2  # one split of people and one fit a K leave the choice to chance
LINEAR_FOLDS = 8  # fits are cheap, and where types are near the limit of what can be seen every person counts
TEMPERATURES = (0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.6, 2.5, 4.0)
RIDGES = (3.0, 15.0)
POOLED_RIDGES = (1e-2, 3.0, 30.0)
PERSONAL_RIDGES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
PERSONAL_WIDTH = 512
PERSONAL_JUDGED = 0.25  # of a person's rows, where it is asked what their own part is worth
MOST_ASKED = 400  # people whose rows tell how much a person's own part is worth
MIN_HELD_OUT = 4
LEAST_TO_CALIBRATE = 8  # people: half of them are fitted on while the others are held out
JUDGED = 0.4  # of a person's rows, or items, in each dealing
N_DEALINGS = 4
MANY_ROWS = 50_000  # from which on rows are dealt once
N_DRAWN = 10_000  # people on whom the choice is made, where there are more


@dataclass(frozen=True)
class Personal:
    """A person's own part that pays: `ridge` is the precision of its prior; `gain` and `gain_error` nats an answer of
    people held out, over the mixture alone.
    """

    ridge: float
    gain: float
    gain_error: float


def fit_fresh_head(
    config: PALConfig,
    data: RowTensors,
    n_annotators: int,
    options: HeadFitOptions,
    *,
    seed: int,
    linear: LinearFitOptions | None = None,
) -> tuple[PointHead, AnnotatorWeights, float]:
    """A head and people of that architecture fitted from scratch, and the last mean loss."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head, people = config.make_head(), AnnotatorWeights(n_annotators, config.n_prototypes)
        if config.variant == "linear":
            loss = fit_linear_head(head, people, data, linear or LinearFitOptions(), seed=seed)
        else:
            standardize(head, data)
            loss = fit_head(head, people, data, options, seed=seed)
    people.freeze_population(torch.bincount(data.annotator_index, minlength=n_annotators), seed=seed)
    return head, people, loss


def standardize(head: PointHead, data: RowTensors) -> None:
    """Take centre and scale of the states that rows name."""
    used = torch.unique(data.item_indices[data.ranks >= 0])
    used = used[:: max(1, len(used) // 100_000)]
    head.standardize.fit(data.item_vectors(used))
    if data.prompt_states is not None and hasattr(head, "standardize_prompt"):
        head.standardize_prompt.fit(data.prompt_vectors(torch.unique(data.prompt_indices)))


def eligible_people(annotator_index: np.ndarray, n_items: np.ndarray | None) -> np.ndarray:
    """Numbers of those who can be held out: people with two answers or more, or one that can be cut in two.

    Args:
        annotator_index: (n_rows,) int64, whose row each is.
        n_items: (n_rows,) items of each row; two if None.
    """
    count = np.bincount(annotator_index)
    if n_items is not None:
        count = np.maximum(count, 2 * (np.bincount(annotator_index, n_items >= 4) > 0))
    return np.flatnonzero(count >= 2)


@dataclass(frozen=True)
class Judged:
    """(n_people,) sums of nats and of right answers, each row as much as it counts for, at the best temperature."""

    log_likelihood: Tensor
    right: Tensor
    temperature: float


class HeldOutTrial:
    """People dealt into folds, their rows into parts, and every head that was fitted on the others.

    Rows are dealt several times over; person i of dealing d is number d · n_people + i among those who are placed.
    """

    def __init__(
        self, data: RowTensors, config: PALConfig, options: HeadFitOptions, seed: int, n_folds: int | None = None
    ) -> None:
        n_people = int(data.annotator_index.max()) + 1
        if n_people > N_DRAWN:
            people, keep, numbers = draw_people(data.annotator_index, n_people, N_DRAWN, least_rows=2, seed=seed)
            data, n_people = replace(data.select(torch.where(keep)[0]), annotator_index=numbers), len(people)
        self.rows, self.data = data, data.as_comparisons()
        self.config, self.options, self.seed = config, options, seed
        self.n_people, self.n_folds = n_people, n_folds
        self.n_dealings = N_DEALINGS if len(data) <= MANY_ROWS else 1
        rng = np.random.default_rng(seed)
        parts = [self._dealt(np.random.default_rng((seed, d))) for d in range(self.n_dealings)]
        self.n_people_by_item = parts[0].n_people_by_item
        place = self._joined([part.first for part in parts])
        judge = self._joined([part.second for part in parts])
        n = self.n_dealings * n_people
        both = (torch.bincount(place.annotator_index, minlength=n) > 0) & (
            torch.bincount(judge.annotator_index, minlength=n) > 0
        )
        self.place, self.judged = (rows.select(torch.where(both[rows.annotator_index])[0]) for rows in (place, judge))
        self.n_judged = self._by_person(torch.ones(len(self.judged), dtype=torch.float64), self.judged)
        self.eligible = rng.permutation(np.flatnonzero((self.n_judged > 0).numpy()))
        self.fits: dict[tuple, list[tuple[PointHead, AnnotatorWeights, Tensor]]] = {}

    def _dealt(
        self, rng: np.random.Generator, share: float = JUDGED, independent: np.ndarray | None = None
    ) -> RowParts:
        arrays = (self.rows.item_indices, self.rows.ranks, self.rows.annotator_index)
        arrays = tuple(array.cpu().numpy() for array in arrays)
        return part_rows(*arrays, fraction=share, item_share=share, rng=rng, independent=independent)

    def _joined(self, tables: list) -> RowTensors:
        """The tables of all dealings below one another, with people numbered anew."""
        width = max(table.ranks.shape[1] for table in tables)

        def wide(values: np.ndarray) -> np.ndarray:
            return np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=-1)

        items = np.concatenate([wide(table.item_indices) for table in tables])
        items = np.where(items < 0, items[:, :1], items)
        ranks = np.concatenate([wide(table.ranks) for table in tables]).astype(np.int64)
        rows = torch.from_numpy(np.concatenate([table.rows for table in tables]))
        offset = torch.from_numpy(np.repeat(np.arange(len(tables)) * self.n_people, [len(t) for t in tables]))
        source = self.rows.to(torch.device("cpu"))
        selected = source.select(rows)
        selected = replace(selected, annotator_index=selected.annotator_index + offset)
        joined = selected.with_rows(torch.from_numpy(items), torch.from_numpy(ranks), torch.arange(len(rows)))
        return joined.as_comparisons().to(self.data.annotator_index.device)

    def _by_person(self, values: Tensor, rows: RowTensors) -> Tensor:
        """(rows,) values, each as much as its row counts for → (n_people,) sums over all dealings."""
        weighted = values if rows.evidence is None else values * rows.evidence
        return sum_by_annotator(weighted, rows.annotator_index % self.n_people, self.n_people)

    def folds(self, variant: str) -> list[np.ndarray]:
        """Who is held out together."""
        n_held_out = max(MIN_HELD_OUT, int(len(self.eligible) * HELD_OUT))
        if variant == "linear":
            n_folds = min(LINEAR_FOLDS if self.n_folds is None else 3, len(self.eligible) // MIN_HELD_OUT)
            return np.array_split(self.eligible, n_folds)
        n_folds = min(N_FOLDS if self.n_folds is None else self.n_folds, len(self.eligible) // n_held_out)
        return [self.eligible[number * n_held_out : (number + 1) * n_held_out] for number in range(n_folds)]

    def people_of(self, variant: str) -> Tensor:
        """Numbers of all who are judged."""
        return torch.from_numpy(np.sort(np.concatenate(self.folds(variant))))

    def allowed(self, candidates: Sequence[int]) -> list[int]:
        """Numbers of prototypes that those trained on can bear."""
        known = int((torch.bincount(self.data.annotator_index) > 0).sum())
        most = min(known - int(len(self.eligible) * HELD_OUT), len(self.data))
        return [k for k in candidates if k <= most]

    def fitted(
        self, variant: str, n_prototypes: int, linear: LinearFitOptions, n_folds: int | None = None
    ) -> list[tuple[PointHead, AnnotatorWeights, Tensor]]:
        """For each fold the head and people of those left, and who is out (n_people,) bool; each fitted once."""
        key = (variant, n_prototypes, linear if variant == "linear" else None, self.options)
        fits = self.fits.setdefault(key, [])
        similarity = self.config.similarity if variant == self.config.variant else None
        config = replace(self.config, variant=variant, n_prototypes=n_prototypes, similarity=similarity)
        rough = replace(linear, n_restarts=2, max_steps=30, tolerance=1e-4)
        for number, people in enumerate(self.folds(variant)[:n_folds]):
            if number < len(fits):
                continue
            is_out = torch.zeros(self.n_people, dtype=torch.bool)
            is_out[torch.from_numpy(people)] = True
            kept = torch.where(~is_out[self.data.annotator_index.cpu()])[0]
            head, weights, _ = fit_fresh_head(
                config, self.data.select(kept), self.n_people, self.options, seed=self.seed + number, linear=rough
            )
            fits.append((head, weights, is_out))
        return fits[:n_folds]

    def judge(self, variant: str, n_prototypes: int, linear: LinearFitOptions, n_folds: int | None = None) -> Judged:
        """Everybody who is held out, under heads fitted on the others."""
        sums = torch.zeros(2, len(TEMPERATURES), self.n_people, dtype=torch.float64)
        for head, people, is_out in self.fitted(variant, n_prototypes, linear, n_folds):
            place, judged = self._rows_of(is_out)
            for row, temperature in enumerate(TEMPERATURES):
                head.temperature = temperature
                weights = self._placed(head, people, place)
                scores = scores_of(head, judged, weights)
                sums[:, row] += torch.stack(self._nats_and_right(scores, judged))
            head.temperature = 1.0
        best = int(sums[0].sum(1).argmax())
        return Judged(sums[0, best], sums[1, best], TEMPERATURES[best])

    def _rows_of(self, is_out: Tensor) -> tuple[RowTensors, RowTensors]:
        return tuple(
            rows.select(torch.where(is_out[(rows.annotator_index % self.n_people).cpu()])[0])
            for rows in (self.place, self.judged)
        )

    def _placed(self, head: PointHead, people: AnnotatorWeights, place: RowTensors) -> Tensor:
        n = self.n_dealings * self.n_people
        if people.n_prototypes == 1:
            return torch.ones(n, 1, device=place.annotator_index.device)
        return fit_people(head, people, place, n, method="posterior").weights

    def _nats_and_right(self, scores: Tensor, rows: RowTensors) -> tuple[Tensor, Tensor]:
        """(n_people,) sums of the log-likelihood and of the share of right pairs of each row."""
        right, n_pairs = pair_order(scores, rows.ranks)
        nats = -plackett_luce(scores, rows.ranks)
        return self._by_person(nats.double(), rows), self._by_person(right / n_pairs, rows)

    def choose_variant(
        self, variants: Sequence[str], compared: Sequence[int], recurs: int
    ) -> tuple[str, dict[str, float] | None, LinearFitOptions]:
        """The kind of head, how likely people held out are under each (nats an answer, at the best of the numbers of
        prototypes compared), and how a linear head is shrunk. It gives way only where another is better by more than
        the error, and is tried where `recurs` people or more met the median item.
        """
        linear = LinearFitOptions()
        tried = [v for v in variants if v != "linear" or len(variants) == 1 or items_recur(self.data, recurs)]
        if "linear" in tried:
            linear = self._best_linear(max(compared))
        if len(tried) == 1:
            return tried[0], None, linear
        people = self.people_of(next(v for v in tried if v != "linear"))
        n_answers = self.n_judged[people]
        judged = {}
        for variant in tried:
            every = [self.judge(variant, k, linear).log_likelihood[people] for k in compared]
            judged[variant] = max(every, key=lambda values: float(values.sum()))
        seen = {v: float(values.sum() / n_answers.sum()) for v, values in judged.items()}
        best = max(seen, key=seen.get)
        if "linear" in tried:
            gain, error = paired_gain(judged[best], judged["linear"], n_answers)
            best = best if gain > max(error, LINEAR_WORTH * abs(seen["linear"])) else "linear"
        return best, seen, linear

    def _best_linear(self, n_prototypes: int) -> LinearFitOptions:
        """Metric and strength of the pooled direction, at K = 1; then the strength of the types, at that K."""
        options = [
            LinearFitOptions(whiten=whiten, pooled_ridge=ridge) for whiten in (False, True) for ridge in POOLED_RIDGES
        ]
        best = self._likeliest(1, options, n_folds=2)
        if n_prototypes == 1:
            return best
        return self._likeliest(n_prototypes, [replace(best, ridge=ridge) for ridge in RIDGES], n_folds=2)

    def _likeliest(self, n_prototypes: int, options: list[LinearFitOptions], n_folds: int) -> LinearFitOptions:
        totals = [float(self.judge("linear", n_prototypes, one, n_folds).log_likelihood.sum()) for one in options]
        return options[totals.index(max(totals))]

    def choose_steps(self, variant: str, n_prototypes: int, min_steps: int) -> int:
        """`min_steps` where they help people held out; 0 where they do not, or half as many are planned anyhow."""
        longer = replace(self.options, min_steps=min_steps)
        epochs, batch_size = self.options.schedule(len(self.data))
        if 2 * epochs * -(-len(self.data) // batch_size) > min_steps:
            return 0
        linear, planned = LinearFitOptions(), self.options
        before = self.judge(variant, n_prototypes, linear).log_likelihood.sum()
        self.options = longer
        after = self.judge(variant, n_prototypes, linear).log_likelihood.sum()
        if after > before:
            return min_steps
        self.options = planned
        return 0

    def choose_personal(self, variant: str, n_prototypes: int, linear: LinearFitOptions) -> Personal | None:
        """The precision of a person's own part under which people held out are most likely; None unless it gains more
        than its error, and loses nothing in accuracy.

        A person's own part may know items, so rows that are judgements of their own are dealt one by one, whatever
        items they share; those of people whose rows were made of votes or rankings are parted by item.
        """
        temperature = self.judge(variant, n_prototypes, linear).temperature
        place, judged, offsets, scores = self._offsets(variant, n_prototypes, linear, temperature)
        items = torch.cat([place.item_indices.flatten(), judged.item_indices.flatten()])
        used, inverse = torch.unique(items, return_inverse=True)
        placed_items, judged_items = inverse.split([place.item_indices.numel(), judged.item_indices.numel()])
        center, basis = personal_basis(self.data)
        features = (self.data.item_vectors(used) - center) @ basis
        of_item = features[judged_items.view(judged.ranks.shape)]
        before = self._nats_and_right(scores, judged)
        n_answers = self._by_person(torch.ones(len(judged), dtype=torch.float64), judged)
        people, best = n_answers > 0, None
        for ridge in PERSONAL_RIDGES:
            deltas = fit_deviations(
                features, placed_items.view(place.ranks.shape), place.ranks, place.annotator_index, offsets,
                self.n_dealings * self.n_people, ridge=ridge, row_weights=place.evidence,
            )  # fmt: skip
            after = self._nats_and_right(scores + (of_item * deltas[judged.annotator_index, None]).sum(-1), judged)
            gain, error = paired_gain(after[0][people], before[0][people], n_answers[people])
            loss, loss_error = paired_gain(before[1][people], after[1][people], n_answers[people])
            if best is not None and gain < best.gain:
                break
            if gain > error and loss <= loss_error:
                best = Personal(ridge, gain, error)
        return best

    def _offsets(
        self, variant: str, n_prototypes: int, linear: LinearFitOptions, temperature: float
    ) -> tuple[RowTensors, RowTensors, Tensor, Tensor]:
        """Rows that some people held out are placed and judged by, and rewards (rows, max_items) of both under the
        heads of the others.
        """
        rows = [part.cpu().numpy() for part in (self.rows.item_indices, self.rows.ranks, self.rows.annotator_index)]
        independent = independent_people(evidence_of_rows(*rows), rows[2])
        dealt = [
            self._dealt(np.random.default_rng((self.seed, d)), PERSONAL_JUDGED, independent)
            for d in range(self.n_dealings)
        ]
        sources = [self._joined([part.first for part in dealt]), self._joined([part.second for part in dealt])]
        fits, rows, rewards = self.fitted(variant, n_prototypes, linear), ([], []), ([], [])
        for head, people, is_out in fits:
            head.temperature = temperature
            is_asked = torch.zeros_like(is_out)
            is_asked[torch.where(is_out)[0][: MOST_ASKED // len(fits)]] = True
            asked = [torch.where(is_asked[(source.annotator_index % self.n_people).cpu()])[0] for source in sources]
            weights = self._placed(head, people, sources[0].select(asked[0]))
            for part, source in enumerate(sources):
                rows[part].append(asked[part])
                rewards[part].append(scores_of(head, source.select(asked[part]), weights))
            head.temperature = 1.0
        place, judged = (source.select(torch.cat(part)) for source, part in zip(sources, rows, strict=True))
        return place, judged, torch.cat(rewards[0]), torch.cat(rewards[1])


def personal_basis(data: RowTensors) -> tuple[Tensor, Tensor]:
    """Centre and basis of deviations, from the vectors that rows name."""
    used = torch.unique(data.item_indices[data.ranks >= 0])
    return principal_basis(data.item_vectors(used[:: max(1, len(used) // 8192)]), PERSONAL_WIDTH)
