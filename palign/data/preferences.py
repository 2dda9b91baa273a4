"""Pairs, best-of-M and rankings as one thing: a row is one person's judgement of two or more completions.

Every row carries integer ranks: 0 is best, equal ranks tie, -1 is padding. A pair is [0, 1], best of four
[0, 1, 1, 1], a full ranking [0, 1, 2, 3], the best two of four in order [0, 1, 2, 2]; ratings (higher is better)
become dense ranks with ties. Within a row the items stand best first.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from palign.data.annotators import AnnotatorIndex, canonical_ids
from palign.data.rendering import render_completion, render_prompt
from palign.data.rows.checks import MAX_CHARACTERS, Text, unknown_column_message
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reader import RowReader
from palign.data.rows.reading import Reading
from palign.data.rows.table import Table

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Preferences", "render_completion", "render_prompt"]


@dataclass(eq=False)
class Preferences:
    """Columns of `n_rows` judgements; treat as immutable (`select` shares texts with its source).

    Attributes:
        annotator_ids: (n_rows,) object, canonical texts.
        item_indices: (n_rows, max_items) int64, -1 is padding; into `items`, or rows of the embeddings.
        ranks: (n_rows, max_items) int16, never falling along a row, -1 is padding.
        prompt_indices: (n_rows,) int64; into `prompts`, or rows of the embeddings; -1 is none.
        prompts: unique prompts, each a text or a list of messages; None when rows name vectors.
        items: unique (prompt index, completion); None when rows name vectors.
        columns: every further column of the rows, (n_rows,) object each; None where a row lacks it.
        reading: how they were read; None where nothing was. `select` keeps it as it is.
        item_names: what each vector is called, where rows name vectors of images; None else.
    """

    annotator_ids: np.ndarray
    item_indices: np.ndarray
    ranks: np.ndarray
    prompt_indices: np.ndarray
    prompts: list[Text] | None = None
    items: list[tuple[int, Text]] | None = None
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    reading: Reading | None = field(default=None, repr=False)
    item_names: list[str] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        n_rows = len(self.annotator_ids)
        shapes = {
            "item_indices": self.item_indices.shape[:1],
            "ranks": self.ranks.shape[:1],
            "prompt_indices": self.prompt_indices.shape,
            **{f"columns[{name!r}]": values.shape for name, values in self.columns.items()},
        }
        wrong = {name: shape for name, shape in shapes.items() if shape != (n_rows,)}
        if wrong or self.item_indices.shape != self.ranks.shape:
            raise ValueError(
                f"Preferences of {n_rows} rows need every array to have as many, and item_indices "
                f"{self.item_indices.shape} and ranks {self.ranks.shape} one shape; wrong are {wrong or 'those two'}."
            )

    def __len__(self) -> int:
        return len(self.annotator_ids)

    def __repr__(self) -> str:
        kind = f"{len(self.items)} completions" if self.is_text else "vectors"
        further = f"; columns {', '.join(self.columns)}" if self.columns else ""
        return f"Preferences({len(self)} rows by {len(self.annotators())} annotators over {kind}{further})"

    @property
    def is_text(self) -> bool:
        """Whether rows hold texts (True) or name rows of an embedding file (False)."""
        return self.items is not None

    @property
    def filled_item_indices(self) -> np.ndarray:
        """(n_rows, max_items) `item_indices` with the row's first item at padding: all of them can be looked up."""
        return np.where(self.item_indices < 0, self.item_indices[:, :1], self.item_indices)

    @property
    def n_items(self) -> np.ndarray:
        """(n_rows,) how many items each row compares."""
        return (self.item_indices >= 0).sum(axis=1)

    def item_text(self, number: int) -> Text:
        """A completion; of vectors its name, or "item" and its number."""
        if self.is_text:
            return self.items[number][1]
        return f"item {number}" if self.item_names is None else self.item_names[number]

    def texts(self) -> list[Text]:
        """Every prompt and every completion; nothing where rows name vectors."""
        return [*(self.prompts or []), *(text for _, text in self.items or [])]

    def annotators(self) -> AnnotatorIndex:
        """Everybody who judged, in order of first appearance."""
        return AnnotatorIndex(dict.fromkeys(self.annotator_ids.tolist()))

    def column(self, name: str) -> np.ndarray:
        """One further column (n_rows,) object; ValueError with the nearest names when there is none such."""
        if name not in self.columns:
            raise ValueError(unknown_column_message(name, self.columns, "", "Only further columns may be groups."))
        return self.columns[name]

    def select(self, rows: np.ndarray | Iterable[int]) -> "Preferences":
        """The rows of a boolean mask (n_rows,) or of integer positions, in that order; texts are shared."""
        rows = np.asarray(rows if isinstance(rows, np.ndarray) else list(rows))
        if rows.dtype == bool and rows.shape != (len(self),):
            raise ValueError(f"A mask over {len(self)} rows must have that shape, not {rows.shape}.")
        if rows.dtype != bool:
            rows = rows.astype(np.int64, casting="same_kind" if rows.size else "unsafe")
        return replace(
            self,
            annotator_ids=self.annotator_ids[rows],
            item_indices=self.item_indices[rows],
            ranks=self.ranks[rows],
            prompt_indices=self.prompt_indices[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
        )

    def with_own_items(self) -> "Preferences":
        """The same rows with the texts that they use and no others; rows of vectors as they are."""
        if not self.is_text:
            return self
        used, inverse = np.unique(self.item_indices, return_inverse=True)
        places = inverse.reshape(self.item_indices.shape)
        if len(used) and used[0] < 0:
            used, places = used[1:], places - 1
        return replace(self, items=[self.items[number] for number in used], item_indices=places.astype(np.int64))

    def take_annotators(self, ids: Iterable[object]) -> "Preferences":
        """The rows of these people, in the order they stand; someone with no row is a ValueError."""
        known = self.annotators()
        chosen = np.zeros(len(known), dtype=bool)
        chosen[known.indices(ids)] = True
        return self.select(chosen[known.indices(self.annotator_ids)])

    @classmethod
    def of(cls, rows: "Preferences | Iterable[Mapping[str, Any]]", **options: Any) -> "Preferences":
        """Preferences as they are; of anything else, what `from_rows` makes of it."""
        return rows if isinstance(rows, Preferences) else cls.from_rows(rows, **options)

    @classmethod
    def from_rows(
        cls,
        rows: "Table | Iterable[Mapping[str, Any]]",
        *,
        embeddings: bool | int = False,
        max_characters: int | None = MAX_CHARACTERS,
        source: str = "",
        **reading: Any,
    ) -> "Preferences":
        """Check rows and take them in. A row gives one of

        - `chosen` and `rejected`;
        - two answers and a winner, where `first_column`, `second_column` and `winner_column` are named;
        - `completions`, best first, with `n_ranked` if only the first so many are in order;
        - `completions` in any order with `ratings`, higher is better, or `ranks`, 1 is best; equal ones tie;

        each plain or conversational, `prompt` may be missing. Rows whose ratings all tie say nothing: they are
        dropped and counted in one warning.

        Args:
            rows: dicts, a `datasets.Dataset`, or anything that yields dicts.
            embeddings: rows name vectors (`chosen_index` and `rejected_index`, or `completion_indices`, and
                `prompt_index`): the number of vectors, or True when it is not known.
            max_characters: longest text allowed; None allows any.
            source: what messages call the rows (a file's name).
            reading: as in `palign.data.rows.options.ReadingOptions`: annotator_column="worker", bad_rows="drop", …

        Raises:
            TypeError, ValueError: one paragraph that names the row, the column and what stands there.
        """
        reader = RowReader(ReadingOptions.reading(reading), max_characters, embeddings)
        return cls(**reader.read(rows, source))

    @classmethod
    def from_arrays(
        cls,
        annotator_ids: Iterable[object],
        chosen_index: np.ndarray,
        rejected_index: np.ndarray,
        prompt_index: np.ndarray | None = None,
        columns: Mapping[str, np.ndarray] | None = None,
    ) -> "Preferences":
        """Millions of pairs of vectors at array speed.

        Args:
            annotator_ids: (n_rows,) ids of any kind.
            chosen_index, rejected_index: (n_rows,) whole numbers, rows of the embeddings.
            prompt_index: the same for prompts; -1 is none.
            columns: further columns, (n_rows,) each.

        Raises:
            TypeError, ValueError: one paragraph that names the row and the argument.
        """
        names = canonical_ids(annotator_ids)
        n_rows = len(names)
        pair = np.stack(
            [
                _whole_numbers("chosen_index", chosen_index, n_rows, 0),
                _whole_numbers("rejected_index", rejected_index, n_rows, 0),
            ],
            axis=1,
        )
        same = np.flatnonzero(pair[:, 0] == pair[:, 1])
        if len(same):
            raise ValueError(
                f"Row {same[0]} (counting from 0): chosen_index and rejected_index are both {pair[same[0], 0]}, and "
                f"so in {len(same):,} rows; such a row says nothing. Drop them."
            )
        prompts = np.full(n_rows, -1) if prompt_index is None else prompt_index
        return cls(
            annotator_ids=names,
            item_indices=pair,
            ranks=np.tile(np.array([0, 1], dtype=np.int16), (n_rows, 1)),
            prompt_indices=_whole_numbers("prompt_index", prompts, n_rows, -1),
            columns={name: np.asarray(values, dtype=object) for name, values in (columns or {}).items()},
        )

    def to_rows(self) -> list[dict[str, Any]]:
        """Rows as `from_rows` takes them, under the standard names."""
        return list(self._iterate_rows())

    def to_pandas(self) -> "DataFrame":
        """The same as a data frame, which `load_preferences` and `from_rows` read again."""
        from pandas import DataFrame

        return DataFrame(self.to_rows())

    def _iterate_rows(self) -> Iterator[dict[str, Any]]:
        has_texts = self.is_text or self.item_names is not None
        names = ("chosen", "rejected", "completions") if has_texts else _VECTOR_NAMES
        further = {name: values.tolist() for name, values in self.columns.items()}
        for row, annotator in enumerate(self.annotator_ids):
            n_items = int((self.item_indices[row] >= 0).sum())
            numbers, ranks = self.item_indices[row, :n_items].tolist(), self.ranks[row, :n_items].tolist()
            items = [self.item_text(number) for number in numbers] if has_texts else numbers
            record: dict[str, Any] = {"annotator_id": annotator}
            if self.prompt_indices[row] >= 0:
                prompt = int(self.prompt_indices[row])
                record.update({"prompt": self.prompts[prompt]} if self.is_text else {"prompt_index": prompt})
            if ranks == [0, 1]:
                record.update(zip(names, items, strict=False))
            else:
                record[names[2]] = items
                record.update(_order_of(ranks))
            record.update({name: values[row] for name, values in further.items() if values[row] is not None})
            yield record


_VECTOR_NAMES = ("chosen_index", "rejected_index", "completion_indices")


def _order_of(ranks: list[int]) -> dict[str, Any]:
    """What `completions` needs beside it to mean these ranks: nothing, `n_ranked` or `ratings`."""
    if ranks == list(range(len(ranks))):
        return {}
    n_ranked = ranks[-1]
    if ranks == [min(position, n_ranked) for position in range(len(ranks))]:
        return {"n_ranked": n_ranked}
    return {"ratings": [n_ranked - rank for rank in ranks]}


def _whole_numbers(name: str, values: np.ndarray, n_rows: int, lowest: int) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (n_rows,):
        raise ValueError(
            f"{name} must have one entry for each of the {n_rows} annotator ids, not shape {values.shape}."
        )
    if values.dtype.kind not in "iu" and n_rows:
        raise TypeError(f"{name} must hold whole numbers (rows of the embeddings), not {values.dtype}.")
    low = np.flatnonzero(values < lowest)
    if len(low):
        raise ValueError(f"{name}, row {low[0]} (counting from 0): {values[low[0]]} is below {lowest}.")
    return values.astype(np.int64)
