"""The guard: looks at a preference set before anything is trained on it.

    python -m palign.data.guard train.jsonl [validation.jsonl test.jsonl …] [--unseen FILE] [--n_types K]

Every check says ok, look or stop (`palign.data.guards.finding`), with numbers and the rows to look at. Recipes run it
before a model is loaded: what is not ok is printed, and "stop" stops (`--guard warn` goes on, `off` is silent).
"""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from palign.data.exports import folder_export
from palign.data.guards import form as guard_form
from palign.data.guards import metric as guard_metric
from palign.data.guards import names as guard_names
from palign.data.guards import people as guard_people
from palign.data.guards import reading as guard_reading
from palign.data.guards import splits as guard_splits
from palign.data.guards.finding import Finding
from palign.data.loading import load_embeddings, read_table
from palign.data.preferences import Preferences
from palign.data.rows.checks import MAX_CHARACTERS, shorten
from palign.data.rows.files import NO_DATA, SUFFIXES, suffix_of
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reader import RowReader
from palign.data.vote_counts import count_or_auto

__all__ = ["MODES", "Finding", "GuardError", "GuardOptions", "act_on", "guard", "guard_prompts", "main"]

MODES = ("stop", "warn", "off")


class GuardError(ValueError):
    """The rows cannot show what a recipe would report from them."""


@dataclass(frozen=True)
class GuardOptions:
    """What the checks go by.

    Attributes:
        n_types: K that is to be trained, or 'auto'; None leaves the number of votes alone.
        type_column: column with a declared type or group; not looked at where the rows have none such.
        position_column: where the chosen completion stood; None looks for it.
        prompts_are_new: evaluation claims prompts and completions that training never saw; False where rows of the
            same prompts were split on purpose, and only judgements and conversations must not be shared.
        seed: of samples, halves and shuffles.
        learns_metric: a metric is to be learned: is there anything to learn it from?
    """

    n_types: int | str | None = None
    type_column: str = "type"
    position_column: str | None = None
    prompts_are_new: bool = True
    seed: int = 0
    learns_metric: bool = False


def guard(
    splits: Mapping[str, Preferences],
    *,
    unseen: Preferences | None = None,
    embeddings: np.ndarray | None = None,
    options: GuardOptions | None = None,
) -> list[Finding]:
    """Every check: of the first split alone, and of every two splits together.

    Args:
        splits: name → rows; the first one is what is trained on.
        unseen: rows of people who must not occur in the first split.
        embeddings: (n_embeddings, hidden), where rows name vectors.
    """
    options = options or GuardOptions()
    (name, rows), *_ = splits.items()
    findings = list(_of_one(rows, name, embeddings, options))
    for first, second in combinations(splits, 2):
        findings += _of_two(splits[first], splits[second], (first, second), options)
    if unseen is not None:
        findings.append(guard_splits.check_unseen(rows, unseen))
    return findings


def _of_one(rows: Preferences, split: str, embeddings: np.ndarray | None, options: GuardOptions) -> Iterator[Finding]:
    seed, position = options.seed, options.position_column
    yield guard_reading.check_winners_used(rows, position=position, split=split)
    if embeddings is not None:
        yield guard_reading.check_vectors(embeddings)
        if options.learns_metric:
            yield guard_metric.check_metric(rows, embeddings, split=split, seed=seed)
    yield guard_form.check_form(rows, split=split, seed=seed)
    yield guard_form.check_length(rows, split=split, seed=seed)
    yield guard_form.check_length_sign(rows, split=split, seed=seed)
    yield from guard_people.check_repeats(rows, split=split)
    yield guard_people.check_constant(rows, column=position, split=split)
    yield guard_people.check_position(rows, column=position, split=split)
    yield guard_names.check_names(rows, embeddings=embeddings, split=split, seed=seed)
    if rows.is_text:
        yield _prompt_sources(rows, split, seed)
    if options.type_column in rows.columns:
        yield guard_splits.check_type_sources(rows, options.type_column, split=split, seed=seed)
    if options.n_types is not None:
        yield guard_people.check_votes(rows, count_or_auto(options.n_types), split=split)


def _of_two(
    first: Preferences, second: Preferences, names: tuple[str, str], options: GuardOptions
) -> Iterator[Finding]:
    judgements = guard_splits.check_shared_judgements(first, second, names)
    yield judgements
    if judgements.value >= guard_splits.SAME_SPLIT:
        return  # one split under two names shares all the rest, too
    yield guard_splits.check_shared_conversations(first, second, names)
    yield guard_splits.check_shared_items(first, second, names)
    if options.prompts_are_new:
        yield guard_splits.check_shared_prompts(first, second, names)
        yield guard_splits.check_shared_completions(first, second, names)


def _prompt_sources(rows: Preferences, split: str, seed: int) -> Finding:
    people = rows.annotators().indices(rows.annotator_ids)
    return guard_splits.check_prompt_sources(people, rows.prompt_indices, split=split, seed=seed)


def guard_prompts(rows: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[Finding]:
    """The one check for rows with a `prompt` and an `annotator_id` and no judgement: do annotators fall apart into
    groups that share no prompt?"""
    people = np.unique([str(row["annotator_id"]) for row in rows], return_inverse=True)[1]
    prompts = np.unique([repr(row["prompt"]) for row in rows], return_inverse=True)[1]
    return [guard_splits.check_prompt_sources(people, prompts, seed=seed)]


def act_on(findings: Iterable[Finding], mode: str = "stop") -> list[str]:
    """Print what is not ok, a line each (in the main process only), and stop where that is asked for.

    Returns:
        The lines, for a report.

    Raises:
        ValueError: a mode other than 'stop', 'warn' and 'off'.
        GuardError: a finding says stop, and so does the mode.
    """
    if mode not in MODES:
        raise ValueError(f"guard is {mode!r}; allowed are {', '.join(MODES)}.")
    if mode == "off":
        return []
    alarms = [finding for finding in findings if finding.verdict != "ok"]
    lines = [f"guard: {finding.verdict}: {finding.name}: {finding.message}{_where(finding)}" for finding in alarms]
    stops = [line for line, finding in zip(lines, alarms, strict=True) if finding.verdict == "stop"]
    if stops and mode == "stop":
        raise GuardError(
            "\n".join(lines) + "\nThese rows cannot show what would be reported from them. Mend them; or go on with "
            "--guard warn, which prints this and goes on."
        )
    if os.environ.get("RANK", "0") == "0":
        for line in lines:
            print(line, flush=True)
    return lines


def _where(finding: Finding) -> str:
    if not finding.rows:
        return ""
    return f" (rows {', '.join(map(str, finding.rows))}{f' of {finding.split}' if finding.split else ''}, …)"


def read_splits(
    paths: Sequence[str], options: ReadingOptions, *, n_embeddings: int | None, max_characters: int | None
) -> tuple[dict[str, Preferences], list[Finding]]:
    """Rows of files, folders (every data file is a split) or hub names, and what their form in the file says."""
    splits, findings = {}, []
    is_text = n_embeddings is None
    for path in paths:
        for source in _splits_inside(path, options):
            names = ReadingOptions.reading(options)
            table = read_table(source, options=names, is_text=is_text)
            if names.winner_column is None:
                findings.append(guard_form.check_raw_form(table, names))
            reader = RowReader(names, max_characters, False if is_text else n_embeddings)
            splits[table.name or str(source)] = rows = Preferences(**reader.read(table))
            print(f"{rows.reading}\n", flush=True)
    return splits, findings


def _splits_inside(path: str, options: ReadingOptions) -> list[str | Path]:
    """The data files of a folder, train first; anything else is one split."""
    folder = Path(path)
    if not folder.is_dir() or folder_export(folder, options.source) is not None:
        return [path]
    inside = [p for p in sorted(folder.iterdir()) if suffix_of(p) in SUFFIXES and p.name not in NO_DATA]
    if any(p.name in ("state.json", "dataset_dict.json") for p in folder.iterdir()):
        return [path]
    order = {"train": 0, "validation": 1, "test": 2}
    inside.sort(key=lambda p: order.get(p.name.split(".")[0], 9))
    return inside or [path]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, without all options before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}; --help lists the options.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="palign guard", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("files", nargs="*", help="what is trained on, then further splits: files, folders, hub names")
    parser.add_argument("--dataset_name", help="what is trained on, by the name that recipes have for it")
    parser.add_argument("--unseen", help="rows of people who must not occur in the first file")
    parser.add_argument("--embeddings", help="a .npy file, where rows name vectors")
    parser.add_argument("--n_types", help="K that is to be trained, or 'auto'")
    parser.add_argument("--metric", action="store_true", help="with --embeddings: can a metric be learned from them?")
    parser.add_argument("--type_column", default="type", help="column with a declared type or group")
    parser.add_argument("--position_column", help="column that says where the chosen completion stood")
    parser.add_argument("--max_characters", type=int, default=MAX_CHARACTERS, help="longest text; 0 allows any")
    parser.add_argument("--seed", type=int, default=0)
    for item in fields(ReadingOptions):
        kind = {"nargs": "+", "default": []} if item.name == "winner_values" else {"default": item.default}
        if isinstance(item.default, int):
            kind["type"] = int
        parser.add_argument(f"--{item.name}", help=item.metadata["help"], **kind)
    return parser


def main(argv: list[str] | None = None) -> int:
    """The command: a line for each check, the rows to look at; 1 where a check says stop, 2 where nothing is read."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.dataset_name is not None:
        args.files.insert(0, args.dataset_name)
    if not args.files:
        parser.error("no file is given; name what is to be looked at, as in palign guard rows.csv")
    try:
        return _look(args)
    except (FileNotFoundError, ImportError, TypeError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2


def _look(args: argparse.Namespace) -> int:
    names = ReadingOptions(**{item.name: getattr(args, item.name) for item in fields(ReadingOptions)})
    embeddings = None if args.embeddings is None else load_embeddings(args.embeddings)
    if args.metric and embeddings is None:
        raise ValueError("--metric asks about vectors, and --embeddings names none: give a .npy file (n, width).")
    reading = {"n_embeddings": None if embeddings is None else len(embeddings)}
    reading["max_characters"] = args.max_characters or None
    splits, findings = read_splits(args.files, names, **reading)
    unseen = None if args.unseen is None else next(iter(read_splits([args.unseen], names, **reading)[0].values()))
    options = GuardOptions(
        args.n_types, args.type_column, args.position_column, seed=args.seed, learns_metric=args.metric
    )
    findings += guard(splits, unseen=unseen, embeddings=embeddings, options=options)
    for finding in findings:
        print(f"{finding.verdict:<5} {finding.name:<21} {finding.message}")
        for row in finding.rows:
            print(f"{'':>8}{finding.split} row {row}: {_shown(splits.get(finding.split, unseen), row)}")
    n_stop, n_look = (sum(finding.verdict == verdict for finding in findings) for verdict in ("stop", "look"))
    print(f"\n{len(findings)} checks: {n_stop} stop, {n_look} look")
    return 1 if n_stop else 0


def _shown(rows: Preferences | None, row: int) -> str:
    """The row, cut short; nothing of a file can break out of its repr."""
    if rows is None:
        return ""
    (record,) = rows.select([row]).to_rows()
    return ", ".join(f"{key}={shorten(value, 48)}" for key, value in list(record.items())[:4])


if __name__ == "__main__":
    sys.exit(main())
