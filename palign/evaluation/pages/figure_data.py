"""What a report's figures need beyond its tables: where people stand among types, regrets, how training went."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from palign.evaluation.pages.report_keys import (
    FiguresRecord,
    ImageLikesRecord,
    LikesRecord,
    RegretsRecord,
    TypeSpaceRecord,
)
from palign.evaluation.statistics.tables import group_labels

__all__ = ["FigureData"]

DIGITS = 4
HISTORY = {"reward": "objective/reward", "gold": "objective/gold", "kl": "objective/kl"}


@dataclass(frozen=True)
class FigureData:
    """Handed to :func:`palign.evaluation.report.write_report`; whatever is left out is not drawn.

    Attributes:
        type_weights: annotator id → (n_types,) weights or responsibilities, which sum to 1.
        type_names: of the types; `type_0` … if unset.
        regrets: as `RegretsRecord` says; the report opens with them where they have intervals (`worst`).
        histories: policy → a row per update with `step`, `objective/reward` and perhaps `objective/kl` and
            `objective/gold`.
        image_likes: of each type, where items are images (`palign.evaluation.pages.image_likes`).
        likes: what each type likes (`palign.evaluation.pages.type_likes`); by `type_names`.
    """

    type_weights: Mapping[str, Sequence[float]] | None = None
    type_names: Sequence[str] | None = None
    regrets: RegretsRecord | None = None
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    image_likes: Sequence[ImageLikesRecord] = ()
    likes: Sequence[LikesRecord] = ()

    def record(self, table: pd.DataFrame, annotator_column: str, columns: Sequence[str], most: int) -> FiguresRecord:
        """The part of report.json, plain values.

        Args:
            table: of the report; only its people are shown.
            columns: to mark people by: the first in which everybody has one value.
            most: people that may be listed; above that none is.
        """
        figures: FiguresRecord = {
            "type_space": None,
            "regrets": None,
            "training": [],
            "likes": list(self.likes),
            "image_likes": list(self.image_likes),
        }
        if self.type_weights:
            figures["type_space"] = self._type_space(table, annotator_column, columns, most)
        if self.regrets is not None:
            figures["regrets"] = {**self.regrets}
        for name, history in self.histories.items():
            if len(history) > 1 and HISTORY["reward"] in history:
                means = history.groupby("step", sort=True).mean(numeric_only=True)  # several adapters: their mean
                lines = {key: means[column].round(6).tolist() for key, column in HISTORY.items() if column in means}
                figures["training"].append({"name": str(name), "step": means.index.tolist(), **lines})
        return figures

    def _type_space(
        self, table: pd.DataFrame, annotator_column: str, columns: Sequence[str], most: int
    ) -> TypeSpaceRecord | None:
        people = table.drop_duplicates(annotator_column)
        ids = [str(person) for person in people[annotator_column]]
        weights = {str(person): values for person, values in self.type_weights.items()}
        kept = [place for place, person in enumerate(ids) if person in weights]
        if not kept or len(kept) > most:
            return None
        matrix = np.asarray([weights[ids[place]] for place in kept], dtype=float)
        if matrix.ndim != 2 or matrix.shape[1] < 2 or not np.isfinite(matrix).all():
            return None
        names = list(self.type_names or [f"type_{k}" for k in range(matrix.shape[1])])
        column, groups = None, [names[k] for k in matrix.argmax(axis=1)]
        for name in columns:
            if (table.groupby(annotator_column, sort=False)[name].nunique(dropna=False) == 1).all():
                codes, labels = group_labels(people.iloc[kept], [name])
                column, groups = name, [str(labels[code]) for code in codes]
                break
        return {
            "names": names,
            "annotators": [ids[place] for place in kept],
            "weights": matrix.round(DIGITS).tolist(),
            "group_column": column,
            "groups": groups,
        }
