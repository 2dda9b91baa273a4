"""GroupFrame: a metric by group, with counts, the worst group, and intervals that resample people.

Shaped after fairlearn's ``MetricFrame`` (disaggregate first, aggregate last), with three differences:

1. It starts from a tidy table, one row per judgement, and a metric is a column of it: a mean over rows.
2. It knows the direction of a metric, so that "worst" is never the best.
3. Its bootstrap resamples annotators within groups, never rows: the judgements of one person hang together, and an
   interval that resamples rows pretends to know more than it does.

The resampling: of the n annotators of a group, n - 1 are drawn with replacement, which makes the variance of a mean
unbiased (Rao and Wu 1988) where n draws make it too small by (n - 1)/n; the percentiles are widened from the normal to
Student's t (Hesterberg 2015, section 3.3). Overall and by-group intervals are these percentiles. The gap between the
best and the worst of several noisy numbers is too large on average; its interval is the set of true gaps that could
have given it (palign.evaluation.statistics.intervals). People of large groups are resampled in packets
(palign.evaluation.statistics.clusters), and gini and cvar over very many people are linearised. For worst and ratio
the spread is taken with the two groups held that are the extremes of the table, and the interval is moved by the bias
that the bootstrap shows (mean of the statistic over resamples less its estimate), as for gini and cvar; it reaches
back to the estimate where that would leave it outside.

``scripts/coverage_bootstrap.py`` measures the coverage; ``docs/fairness.md`` has the figures. Source of the clustering
argument: Davison and Hinkley, *Bootstrap Methods and their Application*, section 3.8.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from palign.evaluation.statistics.clusters import Clusters, draw_weights
from palign.evaluation.statistics.inequality import cvar, gap, gini, influences, ratio, worst
from palign.evaluation.statistics.intervals import bounds, gap_bounds
from palign.evaluation.statistics.tables import (
    MISSING,
    check_columns,
    check_numbers,
    group_labels,
    is_missing,
    label_text,
    people_numbers,
)
from palign.models.notebook.drawing import Drawing
from palign.models.notebook.tables import facts_table

__all__ = ["GroupFrame", "direction_of"]

LESS_IS_BETTER = (
    "regret", "kl", "loss", "error", "err", "perplexity", "nll", "ppl", "mse", "rmse", "mae", "brier", "crossentropy",
    "divergence", "distance", "toxicity", "toxic", "harm", "harmful", "harmfulness", "refusal", "overrefusal",
    "hallucination", "hallucinated", "bias", "biased", "misclassification", "failure", "violation", "latency", "cost",
    "ece", "miscalibration", "unfairness", "disparity", "wer", "cer", "eer", "fpr", "fnr", "fp", "fn",
)  # fmt: skip
LESS_IN_TWO_WORDS = (
    "cross entropy", "negative log", "false positive", "false negative", "false alarm", "miss rate",
    "calibration error", "attack success",
)  # fmt: skip
SPREADS = ("worst", "gap", "ratio", "gini", "cvar")
STATISTICS = ("overall", "by_group", *SPREADS)
ELEMENTS_AT_ONCE = 4_000_000
MANY_PEOPLE = 20_000  # each of them one group: gini and cvar are linear in how often they are drawn


def direction_of(metric: str) -> bool:
    """Whether more of a metric is better; ``docs/fairness.md`` has the list.

    False for names with a word of `LESS_IS_BETTER`, or its plural, or with two of `LESS_IN_TWO_WORDS`. True for all
    others: where that is wrong, say so by ``higher_is_better``. A report prints the direction of each metric.
    """
    parts = re.split(r"[^a-z0-9]+", metric.lower())
    if any(pair in " ".join(parts) for pair in LESS_IN_TWO_WORDS):
        return False
    return not any(word.removesuffix(ending) in LESS_IS_BETTER for word in parts for ending in ("", "s", "es"))


class GroupFrame:
    """Metrics by group over a tidy table.

    Args:
        table: a row per judgement; see ``docs/data_formats.md`` for the columns of a score table.
        metrics: name(s) of numeric columns; a NaN or infinity in one is an error.
        groups: name(s) of columns; with several, a group is a combination of values (an intersection). None or empty
            puts everybody in one group. A missing value is a group of its own, "(missing)".
        annotator_column: who judged; the unit that is resampled.
        weights: "judgements" (default): every row counts the same, so a busy person counts more. "annotators": every
            person's mean counts the same, within a group and overall.
        higher_is_better: metric name to bool, where the name does not tell (:func:`direction_of`).
        min_group_size: groups of fewer annotators keep their counts and lose their numbers, everywhere.
        min_ranked_size: groups of fewer annotators keep their numbers and are not ranked: none is the worst or the
            best, and no spread over groups counts it. Nor is "(missing)", which is nobody's group, at any size.

    Attributes:
        by_group: indexed by group, columns ``n_annotators``, ``n_judgements`` and the metrics.
        overall: Series, metric to value, over all rows, masked groups included.
        notes: what a reader of the numbers has to know, as sentences.

    Raises:
        ValueError: no rows, an unknown column (the nearest names are offered), a NaN, nobody named in a row, or
            several models in one table.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        *,
        metrics: str | Sequence[str],
        groups: str | Sequence[str] | None = None,
        annotator_column: str = "annotator_id",
        weights: str = "judgements",
        higher_is_better: Mapping[str, bool] | None = None,
        min_group_size: int = 1,
        min_ranked_size: int = 1,
    ) -> None:
        self.metrics = [metrics] if isinstance(metrics, str) else list(metrics)
        self.group_columns = [groups] if isinstance(groups, str) else list(groups or [])
        self.weights, self.min_group_size, self.min_ranked_size = weights, int(min_group_size), int(min_ranked_size)
        check_columns(table, [annotator_column, *self.group_columns, *self.metrics])
        if weights not in ("judgements", "annotators"):
            raise ValueError(
                f"weights is {weights!r}; it must be 'judgements' (every row counts the same) or 'annotators' (every "
                "person counts the same)."
            )
        models = table["model"].dropna().unique() if "model" in table and "model" not in self.group_columns else []
        if len(models) > 1:
            raise ValueError(
                f"the table holds {len(models)} models ({', '.join(map(str, models[:5]))}) and one frame describes "
                "one. Select the rows of one model, or compare two with palign.evaluation.comparison.compare_models."
            )
        self.higher_is_better = {
            name: bool((higher_is_better or {}).get(name, direction_of(name))) for name in self.metrics
        }
        numbers = check_numbers(table, self.metrics)
        if nobody := int(table[annotator_column].isna().sum()):
            raise ValueError(
                f"column {annotator_column!r} is empty in {nobody:,} of {len(table):,} rows; it says who judged, and "
                "is what intervals resample. Fill it in, or drop these rows."
            )
        self._least, self._most = numbers.min(axis=0), numbers.max(axis=0)
        codes, self.labels = group_labels(table, self.group_columns)
        people = people_numbers(table[annotator_column])
        self._clusters = Clusters(people, codes, numbers, len(self.labels), by_annotator=weights == "annotators")
        self._build()

    def _build(self) -> None:
        clusters = self._clusters
        self._masked = clusters.n_annotators < self.min_group_size
        self._ranked = ~self._masked & (clusters.n_annotators >= self.min_ranked_size) & ~is_missing(self.labels)
        values = clusters.group_means()
        values[self._masked] = np.nan
        self.by_group = pd.DataFrame(values, index=self.labels, columns=self.metrics)
        self.by_group.insert(0, "n_judgements", clusters.n_judgements)
        self.by_group.insert(0, "n_annotators", clusters.n_annotators)
        self.overall = pd.Series(clusters.overall_means(), index=self.metrics, name="overall")
        self.notes = self._take_notes()

    def _take_notes(self) -> list[str]:
        single = int(((self._clusters.n_annotators == 1) & ~self._masked).sum())
        notes = []
        unranked = ~self._ranked & ~self._masked
        if small := int((unranked & (self._clusters.n_annotators < self.min_ranked_size)).sum()):
            notes.append(
                f"{small} of {len(self.labels)} groups {'has' if small == 1 else 'have'} fewer than "
                f"{self.min_ranked_size} annotators: listed, not ranked, and in no spread over groups."
            )
        if (unranked & is_missing(self.labels)).any():
            notes.append(f"Rows without a value are listed as {MISSING}, which is never ranked.")
        if self._masked.any():
            notes.append(
                f"{int(self._masked.sum())} of {len(self.labels)} groups have fewer than {self.min_group_size} "
                "annotators: their counts are shown, their numbers are not, and no statistic over groups uses them."
            )
        if single and single < len(self.labels):
            of_spread = ((self._clusters.n_annotators == 1) & self._ranked).any()
            without = "these groups and the spread over groups have" if of_spread else "they have"
            notes.append(
                f"{single} of {len(self.labels)} groups have a single annotator: nothing can be said of how another "
                f"person of that group would fare, so {without} no interval"
                f"{' (min_group_size=2 leaves them out)' if of_spread else ''}."
            )
        for name, agree in zip(self.metrics, self._clusters.people_agree().T, strict=True):
            if same := int((agree & ~self._masked).sum()):
                notes.append(
                    f"In {same} of {len(self.labels)} groups all annotators have one and the same {name}: an interval "
                    "without width there means that resampling finds no spread, not that the number is certain."
                )
        if not self._clusters.is_nested:
            notes.append("Some annotators stand in several groups: people are resampled as a whole, over all groups.")
        return notes

    def __repr__(self) -> str:
        named = ", ".join(f"{name} {self.overall[name]:.3f}" for name in self.metrics)
        notes = "".join(f"\n{note}" for note in self.notes)
        return f"{self._title()}\n{self.by_group.round(3)}\noverall: {named}{notes}"

    def _repr_html_(self) -> str:
        facts = {f"{name} overall": f"{self.overall[name]:.3f}" for name in self.metrics}
        for name, row in self.worst().iterrows():
            if row["group"] is not None:
                facts[f"lowest {name}" if self.higher_is_better[name] else f"highest {name}"] = label_text(
                    row["group"]
                )
        facts |= {f"note {number + 1}": note for number, note in enumerate(self.notes)}
        return f"{facts_table(self._title(), facts)}{self.by_group.round(3).to_html()}"

    def _title(self) -> str:
        by = " × ".join(map(str, self.group_columns)) or "nothing: one group of all"
        return f"GroupFrame by {by}: {self.n_judgements:,} judgements of {self.n_annotators:,} annotators"

    def plot(self, metric: str | None = None, *, level: float = 0.9, seed: int = 0) -> Drawing:
        """A metric by group with intervals, the worst-served first; a notebook shows it, `.save(path)` keeps it.

        Args:
            metric: the first, if None.
            level, seed: of the intervals.

        Raises:
            ValueError: an unknown metric.
            RuntimeError: matplotlib is not installed.
        """
        from palign.evaluation.pages.frame_picture import draw_frame

        return draw_frame(self, self.metrics[0] if metric is None else metric, level=level, seed=seed)

    @property
    def is_ranked(self) -> np.ndarray:
        """(n_groups,) whether a group can be the worst or the best, and counts in spreads over groups."""
        return self._ranked.copy()

    @property
    def n_annotators(self) -> int:
        """Number of different people in the table."""
        return self._clusters.n_people

    @property
    def n_judgements(self) -> int:
        """Number of rows of the table."""
        return int(self._clusters.n_judgements.sum())

    def worst(self) -> pd.DataFrame:
        """The worst-served group of each metric: indexed by metric, columns ``group``, ``value``, ``n_annotators``."""
        return self._extreme(worst_wanted=True)

    def best(self) -> pd.DataFrame:
        """The best-served group of each metric, as :meth:`worst`."""
        return self._extreme(worst_wanted=False)

    def _extreme(self, *, worst_wanted: bool) -> pd.DataFrame:
        extremes = {}
        for name in self.metrics:
            values = np.where(self._ranked, self.by_group[name].to_numpy(), np.nan)
            lowest_wanted = self.higher_is_better[name] == worst_wanted
            if np.isnan(values).all():
                extremes[name] = {"group": None, "value": np.nan, "n_annotators": 0}
                continue
            place = int(np.nanargmin(values) if lowest_wanted else np.nanargmax(values))
            count = int(self._clusters.n_annotators[place])
            extremes[name] = {"group": self.labels[place], "value": values[place], "n_annotators": count}
        return pd.DataFrame.from_dict(extremes, orient="index", columns=["group", "value", "n_annotators"])

    def gap(self) -> pd.Series:
        """Best minus worst group, per metric, in the metric's unit."""
        return self._series("gap")

    def ratio(self) -> pd.Series:
        """Lowest over highest group, per metric; NaN for metrics that can be negative and are."""
        return self._series("ratio")

    def gini(self) -> pd.Series:
        """Gini coefficient over groups, each counted once, per metric; NaN where a value is negative."""
        return self._series("gini")

    def cvar(self, alpha: float = 0.1) -> pd.Series:
        """Mean over the worst-served share ``alpha`` of the groups, each counted once, per metric."""
        return self._series("cvar", alpha=alpha)

    def _series(self, stat: str, **options: float) -> pd.Series:
        return pd.Series(self.estimate(stat, **options), index=self.metrics, name=stat)

    def _statistic(self, stat: str, values: np.ndarray, weights: np.ndarray | None, alpha: float = 0.1) -> np.ndarray:
        """One number per metric from group values (n, n_groups, n_metrics) → (n, n_metrics)."""
        columns = []
        for place, name in enumerate(self.metrics):
            of_metric, upwards = values[..., place], self.higher_is_better[name]
            if stat == "worst":
                columns.append(worst(of_metric, higher_is_better=upwards))
            elif stat == "cvar":
                columns.append(cvar(of_metric, alpha, weights, higher_is_better=upwards))
            elif stat == "gini":
                columns.append(gini(of_metric, weights))
            else:
                columns.append({"gap": gap, "ratio": ratio}[stat](of_metric))
        return np.stack(columns, axis=-1)

    def replicates(
        self,
        stat: str,
        *,
        seed: int = 0,
        n_resamples: int = 1000,
        alpha: float = 0.1,
        hold_extremes: bool = False,
    ) -> np.ndarray:
        """The statistic on ``n_resamples`` resamples of people.

        ``hold_extremes`` takes worst, gap and ratio from the groups that are worst and best in the table, whatever the
        resample; a gap may then be negative.

        Returns:
            (n_resamples, n_metrics), or (n_resamples, n_groups, n_metrics) for ``by_group``. NaN where a resample
            cannot speak: a group of one annotator, and with it every spread over groups (unless *every* group is one
            annotator: then people are resampled, and ``gini`` and ``cvar`` are over them). One seed draws the same
            people for every statistic and metric, so differences of replicates are paired.
        """
        return self.several_replicates([(stat, hold_extremes)], seed=seed, n_resamples=n_resamples, alpha=alpha)[0]

    def several_replicates(
        self, wanted: Sequence[tuple[str, bool]], *, seed: int = 0, n_resamples: int = 1000, alpha: float = 0.1
    ) -> list[np.ndarray]:
        """:meth:`replicates` of several (statistic, hold_extremes) from one drawing of people."""
        for stat, _ in wanted:
            if stat not in STATISTICS:
                raise ValueError(f"there is no statistic {stat!r}; choose one of {', '.join(STATISTICS)}.")
        is_linear = self._are_people and self.n_annotators > MANY_PEOPLE
        clusters = self._clusters.packed() if is_linear or not self._are_people else self._clusters
        rng, influence = np.random.default_rng(seed), {}
        if is_linear:
            influence = influences(self.by_group[self.metrics].to_numpy(), alpha, list(self.higher_is_better.values()))
        of_groups = any(stat != "overall" for stat, _ in wanted) and not is_linear
        widest = max(clusters.n_people, len(self.labels) * len(self.metrics) * of_groups, 1)
        at_once = max(1, min(n_resamples, ELEMENTS_AT_ONCE // widest))
        parts: list[list[np.ndarray]] = [[] for _ in wanted]
        for start in range(0, n_resamples, at_once):
            drawn = draw_weights(clusters.strata, min(at_once, n_resamples - start), rng)
            values = clusters.group_means(drawn) if of_groups else np.empty(0)
            if of_groups:
                values[:, self._masked] = np.nan
            for part, (stat, holds) in zip(parts, wanted, strict=True):
                if stat in influence:
                    part.append(self.estimate(stat, alpha=alpha) + drawn @ clusters.sums_by_person(influence[stat]))
                else:
                    part.append(self._replicates_of(clusters, stat, drawn, values, alpha, holds))
        return [np.concatenate(part) for part in parts]

    def _replicates_of(
        self, clusters: Clusters, stat: str, drawn: np.ndarray, values: np.ndarray, alpha: float, hold_extremes: bool
    ) -> np.ndarray:
        n_metrics = len(self.metrics)
        if stat == "overall":
            means = clusters.overall_means(drawn)
            return means if clusters.n_people > 1 else np.full_like(means, np.nan)
        if stat == "by_group":
            alone = (clusters.n_annotators == 1)[:, None]
            return np.where(alone, np.nan, values if values.size else np.zeros((len(drawn), 1, n_metrics)))
        values = self._of_ranked(values)
        if stat in ("gini", "cvar") and self._are_people:
            return self._statistic(stat, values, clusters.n_drawn(drawn), alpha)
        if not self._has_spread:
            return np.full((len(drawn), n_metrics), np.nan)
        holds = hold_extremes and stat in ("worst", "gap", "ratio")
        return self._of_held_groups(stat, values) if holds else self._statistic(stat, values, None, alpha)

    @property
    def _are_people(self) -> bool:
        """Every group is one person, and there are several: then people are resampled, not groups."""
        clusters = self._clusters
        return bool((clusters.n_annotators == 1).all()) and clusters.is_nested and len(self.labels) > 1

    @property
    def _has_spread(self) -> bool:
        """At least two groups are ranked, and none of those is a single person."""
        ranked = self._ranked
        return bool(ranked.sum() > 1 and not ((self._clusters.n_annotators == 1) & ranked).any())

    def _of_ranked(self, values: np.ndarray) -> np.ndarray:
        """Group values (…, n_groups, n_metrics), those of groups that are not ranked as NaN."""
        return values if self._ranked.all() else np.where(self._ranked[:, None], values, np.nan)

    def _of_held_groups(self, stat: str, values: np.ndarray) -> np.ndarray:
        """worst, gap or ratio of (n, n_groups, n_metrics) between the extreme groups of the table → (n, n_metrics)."""
        columns = []
        for place, name in enumerate(self.metrics):
            shown = np.where(self._ranked, self.by_group[name].to_numpy(), np.nan)
            if np.isnan(shown).all():
                columns.append(np.full(len(values), np.nan))
                continue
            low, high = values[:, np.nanargmin(shown), place], values[:, np.nanargmax(shown), place]
            with np.errstate(divide="ignore", invalid="ignore"):
                share = np.where(high > 0, low / high, np.nan)
            least = low if self.higher_is_better[name] else high
            columns.append({"worst": least, "gap": high - low, "ratio": share}[stat])
        return np.stack(columns, axis=-1)

    def interval(
        self, stat: str = "by_group", *, level: float = 0.9, seed: int = 0, n_resamples: int = 1000, alpha: float = 0.1
    ) -> pd.DataFrame:
        """Bootstrap interval of a statistic, resampling annotators within groups.

        Args:
            stat: overall, by_group, worst, gap, ratio, gini or cvar.
            level: coverage aimed at, in (0, 1).

        Returns:
            Columns ``low`` and ``high``, indexed by metric; for ``by_group`` by (group columns …, ``metric``). NaN
            where no interval can be given; :attr:`notes` says why.
        """
        return self.intervals([stat], level=level, seed=seed, n_resamples=n_resamples, alpha=alpha)[stat]

    def intervals(
        self, stats: Sequence[str], *, level: float = 0.9, seed: int = 0, n_resamples: int = 1000, alpha: float = 0.1
    ) -> dict[str, pd.DataFrame]:
        """:meth:`interval` of several statistics from one drawing of people, which is what takes the time."""
        if not 0 < level < 1:
            raise ValueError(
                f"level is {level}; it is the coverage aimed at and must lie between 0 and 1, such as 0.9."
            )
        source = {stat: "by_group" if stat == "gap" and self._has_spread else stat for stat in stats}
        holds = {stat: stat in ("worst", "ratio", "gap") for stat in stats}  # the others have no extremes to hold
        wanted = [(name, holds[stat]) for stat, name in source.items()]
        wanted += [(stat, False) for stat in stats if stat in SPREADS and stat != "gap"]
        wanted = list(dict.fromkeys(wanted))
        options = {"seed": seed, "n_resamples": n_resamples, "alpha": alpha}
        replicates = dict(zip(wanted, self.several_replicates(wanted, **options), strict=True))
        ends = {}
        for stat in stats:
            draws = replicates[source[stat], holds[stat]]
            if stat == "gap" and self._has_spread:
                low, high = self._gap_ends(draws, level, seed)
            else:
                estimate = self.estimate(stat, alpha=alpha)
                free = replicates[stat, False] if stat in SPREADS and stat != "gap" else None
                low, high = bounds(estimate, draws, level, self.degrees_of_freedom(stat), free=free)
            if stat in ("gini", "ratio"):
                low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
            if stat in ("worst", "cvar"):  # moved by a bias, but means all the same
                low, high = np.clip(low, self._least, self._most), np.clip(high, self._least, self._most)
            ends[stat] = self._as_table(stat, low, high)
        return ends

    def _gap_ends(self, draws: np.ndarray, level: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Interval of the gap of each metric from group values (n_resamples, n_groups, n_metrics)."""
        clusters, shown = self._clusters, self._ranked
        degrees = (clusters.n_annotators[shown] - 1.0) if clusters.is_nested else max(clusters.n_people - 1.0, 1.0)
        values = self.by_group[self.metrics].to_numpy()[shown]
        ends = [
            gap_bounds(values[:, place], draws[:, shown, place], degrees, level=level, seed=seed)
            for place in range(len(self.metrics))
        ]
        low, high = np.array(ends).T
        return low, np.minimum(high, self._most - self._least)  # means lie no further apart than judgements do

    def _as_table(self, stat: str, low: np.ndarray, high: np.ndarray) -> pd.DataFrame:
        if stat != "by_group":
            return pd.DataFrame({"low": low, "high": high}, index=self.metrics)
        names = [*(self.by_group.index.names if self.group_columns else ["group"]), "metric"]
        keys = [
            (*(label if isinstance(label, tuple) else (label,)), name)
            for label in self.labels
            for name in self.metrics
        ]
        index = pd.MultiIndex.from_tuples(keys, names=names)
        return pd.DataFrame({"low": low.ravel(), "high": high.ravel()}, index=index)

    def estimate(self, stat: str, *, alpha: float = 0.1) -> np.ndarray:
        """The statistic on the table itself, (n_metrics,), or (n_groups, n_metrics) for ``by_group``."""
        if stat == "overall":
            return self.overall.to_numpy()
        values = self.by_group[self.metrics].to_numpy()
        return values if stat == "by_group" else self._statistic(stat, self._of_ranked(values)[None], None, alpha)[0]

    def degrees_of_freedom(self, stat: str) -> np.ndarray | float:
        """For Student's t: n - 1 of the group, of the two extreme groups the smaller, of everybody for the rest."""
        sizes = np.maximum(self._clusters.n_annotators - 1, 1).astype(float)
        if stat == "by_group":
            return np.repeat(sizes[:, None], len(self.metrics), axis=1)
        if stat in ("overall", "gini", "cvar"):
            return float(max(self._clusters.n_people - 1, 1))
        ends = [self.worst(), self.best()] if stat in ("gap", "ratio") else [self.worst()]
        return np.min([np.maximum(end["n_annotators"].to_numpy(float) - 1, 1) for end in ends], axis=0)
