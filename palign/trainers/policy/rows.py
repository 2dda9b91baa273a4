"""Rows that a policy is trained on: one prompt of one person each, from the user's files to what trainers check."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState
from datasets import Dataset
from transformers import TrainingArguments

from palign.data.annotators import canonical_id
from palign.data.loading import read_table
from palign.data.rendering import render_prompt
from palign.data.rows.checks import unknown_column_message
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reader import RowReader
from palign.data.rows.reading import Reading, print_reading
from palign.models.architectures import special_ids

__all__ = [
    "PolicyRows",
    "cut_prompt",
    "groups_of",
    "named_rows",
    "prompt_rows_and_reading",
    "query_ids",
    "read_prompt_rows",
    "require_one_batch",
]


@dataclass
class PolicyRows:
    """What the loader carries, and beside it what only the reward and the log may see.

    Attributes:
        dataset: what the loader carries.
        prompts: `n_rows` prompts as the reward model knows them.
        annotator_ids: `n_rows` people.
        groups: `n_rows` names, or empty.
        group_names: the distinct groups, in order of first appearance.
    """

    dataset: Dataset
    prompts: list[str]
    annotator_ids: list[str]
    groups: list[str]
    group_names: list[str]


def named_rows(source: Iterable[dict[str, Any]], *, name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows and, of each, the person.

    Raises:
        ValueError: no rows, a missing column, or a person without an id.
    """
    rows = list(source)
    if not rows:
        raise ValueError(f"{name} has no rows; a policy needs prompts.")
    for column in ("prompt", "annotator_id"):
        missing = next((i for i, row in enumerate(rows) if row.get(column) is None), None)
        if missing is not None:
            raise ValueError(
                f"{name}, row {missing}: the column {column!r} is missing or empty; it has {sorted(rows[missing])}. "
                "Every row must be one prompt of one person: `prompt` and `annotator_id`."
            )
    return rows, [canonical_id(row["annotator_id"]) for row in rows]


def groups_of(rows: Sequence[dict[str, Any]], column: str | None) -> list[str]:
    """The group of each row, "(missing)" where it gives none; nothing where no row has one."""
    groups = [None if column is None else row.get(column) for row in rows]
    return [] if set(groups) <= {None} else ["(missing)" if group is None else str(group) for group in groups]


def query_ids(prompts: Sequence[Any], tokenizer: Any, *, max_length: int | None = None) -> list[list[int]]:
    """Token ids of prompts as a policy reads them before it answers; nothing (no eos) is put behind them.

    A text begins with what the tokenizer puts before every text (bos), a conversation with what its template writes.

    Args:
        prompts: texts, or lists of messages; a text that begins with bos as it is gets no second one.
        tokenizer: the policy's.
        max_length: tokens kept, bos and the end of the prompt; None keeps all.
    """
    before, _ = special_ids(tokenizer, is_causal=True)
    token_ids = []
    for prompt in prompts:
        ids = tokenizer(render_prompt(prompt, tokenizer), add_special_tokens=False, verbose=False)["input_ids"]
        if isinstance(prompt, str) and ids[: len(before)] != before:
            ids = [*before, *ids]
        token_ids.append(ids if max_length is None else cut_prompt(ids, tokenizer, max_length))
    return token_ids


def cut_prompt(ids: Sequence[int], tokenizer: Any, max_length: int) -> list[int]:
    """At most `max_length` ids of a prompt: what the tokenizer begins every text with, and the end."""
    ids = list(ids)
    if len(ids) <= max_length:
        return ids
    opening = special_ids(tokenizer, is_causal=True)[0] or [tokenizer.bos_token_id]
    kept = opening if ids[: len(opening)] == opening and len(opening) < max_length else []
    return [*kept, *ids[len(kept) - max_length :]]


def require_one_batch(n_rows: int, args: TrainingArguments, name: str = "train_dataset") -> None:
    """Raise `ValueError` where rows do not fill one batch: TRL would train none.

    Args:
        n_rows: rows to train on.
        args: with `num_generations`, the completions drawn for each row.
        name: of the rows, for the message.
    """
    n_each, n_processes = args.per_device_train_batch_size, PartialState().num_processes
    steps, n_generations = "steps_per_generation", args.num_generations
    n_batch = n_each * n_processes * getattr(args, steps)
    if n_rows >= n_batch // n_generations:
        return
    per_row = f", {n_generations} for each row" if n_generations > 1 else ""
    raise ValueError(
        f"{name} has {n_rows} rows, and a batch is {n_batch} completions{per_row} (per_device_train_batch_size "
        f"{n_each} x {steps} {getattr(args, steps)} x {n_processes} process(es)): it cannot be filled once. Give at "
        f"least {n_batch // n_generations} rows, or lower per_device_train_batch_size."
    )


def read_prompt_rows(data: str, /, **options: Any) -> list[dict[str, Any]]:
    """The rows alone of `prompt_rows_and_reading`, which takes the same arguments."""
    return prompt_rows_and_reading(data, **options)[0]


def prompt_rows_and_reading(
    data: str, /, *, split: str | None = None, group_columns: Sequence[str] = (), **reading: Any
) -> tuple[list[dict[str, Any]], Reading]:
    """Rows to train a policy on, from a file, a folder or the hub: `prompt`, `annotator_id` and the groups.

    Preference rows will do: the prompt is the one that a reward model reads of them; what is beside it and the person
    is left out, and so are repeated rows. A group that a row does not give is None. How they were read is printed.

    Args:
        reading: as in `palign.data.rows.options.ReadingOptions`: annotator_column="worker", source="argilla", …

    Raises:
        ValueError: no rows, or a column that is missing or empty; the message names row and column.
    """
    options = ReadingOptions.reading(reading)
    table = read_table(data, split=split, options=options)
    there = table.columns()
    for column in group_columns:
        if len(table) and column not in there:
            advice = "Name groups with --group_columns and --log_rewards_by."
            raise ValueError(unknown_column_message(column, there, table.name, advice))
    if len(table) and options.prompt_column not in there and not _has_answers(options, there):
        advice = (
            "Every row must have a prompt and a person; say what they are called with --prompt_column and "
            "--annotator_column."
        )
        raise ValueError(unknown_column_message(options.prompt_column, there, table.name, advice))
    read, summary = RowReader(options, None).read_prompts(table)
    rows: dict[str, dict[str, Any]] = {}
    groups = {column: table.column(column) for column in group_columns}
    for prompt, person, row in read:
        kept = {"prompt": prompt, "annotator_id": person}
        for column, values in groups.items():
            group = values[row]
            kept[column] = None if group is None or group != group else str(group)
        rows.setdefault(repr((prompt, person)), kept)
    if not rows:
        raise ValueError(f"{table.name} has no rows; a policy needs prompts.")
    summary.left_out = {"repeat a prompt of the same person": len(read) - len(rows)}
    summary.n_preferences = len(rows)
    print_reading(summary)
    return list(rows.values()), summary


def _has_answers(options: ReadingOptions, columns: Sequence[str]) -> bool:
    """Whether the prompt may be what the answers' conversations begin with."""
    named = {options.first_column, options.second_column} - {None} or set(options.pair(True))
    return named <= set(columns) or options.completions_column in columns
