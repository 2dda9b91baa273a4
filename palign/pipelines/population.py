"""From rows to masses: what `recipes/population.py` starts from, and the figures that it ends with."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from palign.data.arguments import DataArguments
from palign.data.guards.finding import Pairs
from palign.data.preferences import Preferences
from palign.data.rows.reading import print_note
from palign.functional.metric.evidence import effective_basis
from palign.functional.populations.cells import bound_cells, find_cells, hyperplanes
from palign.functional.populations.line import Regularisation, Thresholds, choose_regularisation
from palign.functional.populations.posterior import cell_spans, mass_draws
from palign.pipelines.arguments.population import PopulationArguments

__all__ = ["Answers", "MassTable", "cell_table", "mass_table", "read_answers"]

MANY = 5  # answers of the median person, from which on something can be learned of each
NOISY = 0.05  # share of people whose answers contradict one another
PLANTED = ((0.4, -1.0, 0.3), (0.6, 0.8, 0.4))  # share, centre and spread of the embedded default's two camps


@dataclass(frozen=True)
class Answers:
    """Pairs, and where their items are.

    Attributes:
        chosen, rejected: (n, dim) places.
        person: (n,) int64.
        pair: (n,) int64, which two items were compared, in any order.
        notes: sentences for the report.
    """

    chosen: np.ndarray
    rejected: np.ndarray
    person: np.ndarray
    pair: np.ndarray
    notes: list[str]

    @property
    def dim(self) -> int:
        """Of the places."""
        return self.chosen.shape[1]

    @property
    def n_people(self) -> int:
        """Who answered."""
        return int(self.person.max()) + 1


@dataclass(frozen=True)
class MassTable:
    """A row for each cell or pair, what goes into summary.json, and sentences."""

    table: pd.DataFrame
    summary: dict[str, float]
    notes: list[str]


def read_answers(script: PopulationArguments, data_args: DataArguments) -> Answers:
    """Rows and places, checked.

    Raises:
        ValueError: items without places, rows that are no pairs, or more than one dimension without --bounds.
    """
    if data_args.dataset_name is None:
        return _embedded(script)
    vectors = data_args.vectors()
    rows = data_args.train_rows(None if vectors is None else len(vectors))
    if len(rows) == 0:
        raise ValueError("There are no rows to count people by.")
    if int(rows.n_items.max()) > 2:
        row = int(np.flatnonzero(rows.n_items > 2)[0])
        raise ValueError(
            f"Row {row} (counting from 0) compares {rows.n_items[row]} items; masses are counted from pairs. Give "
            "one chosen and one rejected item a row."
        )
    notes = data_args.look_at(rows, embeddings=vectors)
    pairs = Pairs.of(rows)
    if vectors is None:
        places = [_column(rows, name) for name in (script.chosen_position_column, script.rejected_position_column)]
        chosen, rejected = (place[:, None] for place in places)
    else:
        chosen, rejected = _places(vectors, pairs, script)
    ends = (chosen[:, 0], rejected[:, 0]) if vectors is None else (pairs.best, pairs.worst)
    answers = np.bincount(pairs.people)
    if np.median(answers) >= MANY:
        notes += print_note(
            f"The median annotator answered {np.median(answers):g} times: of each of them something can be learned, "
            "too (palign metric, palign reward)."
        )
    return Answers(chosen, rejected, pairs.people, _pair_numbers(*ends), notes)


def _pair_numbers(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(n,) int64: which two items were compared, in any order."""
    ends = np.sort(np.stack([first, second], 1), 1)
    return np.unique(ends, axis=0, return_inverse=True)[1].reshape(-1)


def _column(rows: Preferences, name: str) -> np.ndarray:
    """(n_rows,) numbers of a column."""
    if name not in rows.columns:
        raise ValueError(
            "People are counted by where they stand between items, and these items have no place: the rows have no "
            f"column {name!r}. Give --embeddings FILE.npy of shape (n, 1) for rows that name vectors, or name the "
            "columns with the places of both items (--chosen_position_column, --rejected_position_column)."
        )
    values = rows.column(name)
    numbers = pd.to_numeric(pd.Series(values), errors="coerce").to_numpy(dtype=float)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(
            f"Row {bad[0]} (counting from 0), column {name!r}: {str(values[bad[0]])[:60]!r} is no number, and so in "
            f"{len(bad):,} rows; it must be the item's place on the line. Mend or drop them."
        )
    return numbers


def _places(vectors: np.ndarray, pairs: Pairs, script: PopulationArguments) -> tuple[np.ndarray, np.ndarray]:
    """Places of chosen and rejected, (n, dim), in the dimensions that the items named span."""
    used = np.unique(np.concatenate([pairs.best, pairs.worst]))
    items = np.asarray(vectors[used], dtype=np.float64)
    basis = effective_basis(items)
    dim = basis.shape[1]
    if dim != 1 and not script.bounds:
        raise ValueError(
            f"The items have {dim} dimensions, and above one the masses of cells are not determined by one answer a "
            "person: different populations give the same answers. What can be known are the share on each side of "
            "every pair, and the least and greatest mass of each cell: --bounds true gives those. Or give places on "
            "one line (an embedding file of shape (n, 1), or position columns)."
        )
    places = items if items.shape[1] == 1 else items @ basis
    return places[np.searchsorted(used, pairs.best)], places[np.searchsorted(used, pairs.worst)]


def mass_table(answers: Answers, script: PopulationArguments) -> MassTable:
    """Masses of cells on the line, with intervals."""
    chosen, rejected = answers.chosen[:, 0], answers.rejected[:, 0]
    whole = Thresholds.of(chosen, rejected)
    regularisation = choose_regularisation(chosen, rejected, answers.person, seed=script.seed)
    masses = regularisation.fit(whole).masses
    first, last = cell_spans(chosen, rejected, answers.person, whole.places)
    agree = last >= first
    draws = mass_draws(first[agree], last[agree], len(masses), seed=script.seed)
    starts = _starts(whole, script.n_cells)
    ends = [(1 - script.level) / 2, (1 + script.level) / 2]
    grouped = np.add.reduceat(draws, starts, axis=1)
    low, high = np.quantile(grouped, ends, axis=0)
    places = whole.places[starts[1:] - 1]
    table = pd.DataFrame(
        {
            "from": np.concatenate([[-np.inf], places]),
            "to": np.concatenate([places, [np.inf]]),
            "mass": np.add.reduceat(masses, starts),
            "low": low,
            "high": high,
            "posterior_mean": grouped.mean(0),
        }
    )
    summary = {
        "n_people": float(answers.n_people),
        "n_answers": float(len(chosen)),
        "n_thresholds": float(len(whole)),
        "ridge": regularisation.ridge,
        "squared_error": min(entry[2] for entry in regularisation.table),
        "contradictory_share": float(1 - agree.mean()),
    }
    for number, row in enumerate(table.itertuples(index=False)):
        summary |= {f"cell_{number}/mass": row.mass, f"cell_{number}/low": row.low, f"cell_{number}/high": row.high}
    return MassTable(table, summary, [*answers.notes, *print_note(_sentence(answers, regularisation, whole, agree))])


def _starts(whole: Thresholds, n_cells: int) -> np.ndarray:
    """Numbers of the fine cells that reported ones begin with: as many answers about thresholds between two ends."""
    n_ends = min(n_cells - 1, len(whole))
    share = np.cumsum(whole.counts) / whole.counts.sum()
    ends = np.unique(np.searchsorted(share, (np.arange(n_ends) + 0.5) / n_ends))
    return np.concatenate([[0], np.clip(ends, 0, len(whole) - 1) + 1])


def _sentence(answers: Answers, regularisation: Regularisation, whole: Thresholds, agree: np.ndarray) -> str:
    shrunk = {
        "none": "without regularisation",
        "even": f"shrunk to even masses as by {regularisation.ridge:g} people",
        "normal": f"shrunk to a normal population as by {regularisation.ridge:g} people",
    }[regularisation.target]
    sentence = (
        f"{len(answers.person):,} answers of {answers.n_people:,} people about {len(whole):,} thresholds; masses are "
        f"{shrunk}, by which answers of people held out are foretold best."
    )
    wrong = 1 - float(agree.mean())
    if wrong > 0:
        sentence += f" {wrong:.1%} of the people contradict themselves and are left out of the intervals."
    if wrong > NOISY:
        sentence += " So many that answers are noisy: the true population is narrower than the one shown."
    return sentence


def cell_table(answers: Answers, script: PopulationArguments) -> MassTable:
    """Above one dimension: the share on the first item's side of each pair, and bounds of each cell's mass."""
    counts = np.bincount(answers.pair)
    asked = np.argsort(-counts, kind="stable")[: script.n_pairs]
    ends, shares = [], []
    for number in asked:
        rows = np.flatnonzero(answers.pair == number)
        first, second = answers.chosen[rows[0]], answers.rejected[rows[0]]
        wins = int((answers.chosen[rows] == first).all(axis=1).sum())
        interval = binomtest(wins, len(rows)).proportion_ci(script.level)  # Clopper and Pearson's
        ends.append((first, second))
        shares.append((wins / len(rows), interval.low, interval.high, len(rows)))
    normals, offsets = hyperplanes(*(np.stack(side) for side in zip(*ends, strict=True)))
    share, low, high, n = (np.array(part) for part in zip(*shares, strict=True))
    bounds = bound_cells(find_cells(normals, offsets), low, high)
    signs = ["".join("+" if side > 0 else "-" for side in cell) for cell in bounds.sides]
    table = pd.DataFrame({"sides": signs, "low": bounds.low, "high": bounds.high, "even": bounds.even})
    summary = {
        "n_people": float(answers.n_people), "n_answers": float(len(answers.person)), "n_cells": float(len(table)),
        "largest_low": float(bounds.low.max()), "mean_width": float((bounds.high - bounds.low).mean()),
        "slack": bounds.slack,
    }  # fmt: skip
    for place in range(len(asked)):
        summary |= {f"pair_{place}/share": float(share[place]), f"pair_{place}/low": float(low[place])}
        summary |= {f"pair_{place}/high": float(high[place]), f"pair_{place}/answers": float(n[place])}
    note = (
        f"The items have {answers.dim} dimensions: masses of cells are not determined, and low and high are the "
        f"least and the greatest that fit {len(asked)} pairs' shares within their {script.level:.0%} intervals; even "
        "is the one of many that is nearest to equal masses. Sides: + is that of the item named first in the pair's "
        "row."
    )
    return MassTable(table, summary, [*answers.notes, *print_note(note)])


def _embedded(script: PopulationArguments) -> Answers:
    """Two camps on a line, asked once each about two of nine items; without noise."""
    rng = np.random.default_rng(script.seed)
    n = script.n_annotators
    camp = (rng.random(n) < PLANTED[1][0]).astype(int)
    centre, spread = (np.array([part[i] for part in PLANTED])[camp] for i in (1, 2))
    points, items = rng.normal(centre, spread), np.linspace(-2, 2, 9)
    first = rng.integers(9, size=n)
    second = (first + rng.integers(1, 9, size=n)) % 9
    wins = np.abs(points - items[first]) < np.abs(points - items[second])
    chosen, rejected = np.where(wins, first, second), np.where(wins, second, first)
    pair = _pair_numbers(chosen, rejected)
    return Answers(items[chosen][:, None], items[rejected][:, None], np.arange(n), pair, [])
