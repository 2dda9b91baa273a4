"""From arguments to questions, and from a sheet that people filled in to their answers."""

import csv
import io
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from palign.data.arguments import DataArguments
from palign.data.loading import raw_table, read_table
from palign.data.preferences import Preferences
from palign.data.rows.options import ReadingOptions
from palign.data.rows.reading import print_note
from palign.data.rows.table import Table
from palign.data.rows.winners import SECOND, TIE, side_of_word
from palign.evaluation.scoring import FORMULA
from palign.functional.evidence.questions import QuestionChoice
from palign.models.pal import PALRewardModel
from palign.pipelines.arguments.ask import AskArguments
from palign.questions import NOBODY, PANEL, different_pairs

__all__ = ["Answers", "candidate_pairs", "given_answers", "question_sheet", "with_answers"]

SIDES = {True: ("first", "second"), False: ("first_index", "second_index")}  # of texts, of vectors


def candidate_pairs(script: AskArguments, data: DataArguments, embeddings: np.ndarray | None) -> Preferences:
    """The pairs that may be asked: of rows with or without a person, each pair once.

    Raises:
        ValueError: rows that cannot be read.
    """
    options, is_text = ReadingOptions.reading(data), embeddings is None
    table = read_table(data.dataset_name, split=data.dataset_split, options=options, is_text=is_text)
    if options.annotator_column not in table.columns():
        table = replace(table, rows=[{**row, options.annotator_column: NOBODY} for row in table])
        print_note(f"{table.name or 'the rows'}: no column {options.annotator_column}; rows are questions, nobody's.")
    rows = data.read(table, options, None if embeddings is None else len(embeddings))
    pairs = different_pairs(rows, max_pairs=script.max_pairs, seed=script.seed)
    if len(pairs) == script.max_pairs:
        print_note(f"Of the pairs in {len(rows):,} rows, {len(pairs):,} are looked at (--max_pairs).")
    return pairs


@dataclass(frozen=True)
class Answers:
    """What people answered: `rows` without ties (None where there are none), and `asked`, ties in either order."""

    rows: Preferences | None = None
    asked: Preferences | None = None

    @property
    def ids(self) -> list[str]:
        """Everybody who answered."""
        return [] if self.asked is None else self.asked.annotators().ids


def given_answers(script: AskArguments, data: DataArguments, embeddings: np.ndarray | None) -> Answers:
    """The rows of `--answers_name`: a sheet that was filled in, or rows like those of training.

    Raises:
        ValueError: rows that cannot be read, or a winner that names neither side.
    """
    if script.answers_name is None:
        return Answers()
    options, is_text = ReadingOptions.reading(data), embeddings is None
    sheet = raw_table(script.answers_name)
    if not {*SIDES[is_text], "winner"} <= set(sheet.columns()):
        rows = data.load(script.answers_name, None, None if is_text else len(embeddings))
        return Answers(rows, rows)
    judged, is_tie = _judgements(sheet, options, is_text)
    counts = {
        "are ties, which say nothing of weights": int(is_tie.sum()),
        "have no winner yet, and are left out": len(sheet) - len(judged),
    }
    for what, number in counts.items():
        if number:
            print_note(f"{sheet.name}: {number} of {len(sheet)} questions {what}.")
    if not judged:
        return Answers()
    stated = replace(options, first_column=None, second_column=None, winner_column=None)
    table = replace(sheet, rows=judged, lines=None)
    asked = data.read(table, stated, None if embeddings is None else len(embeddings))
    return Answers(None if is_tie.all() else asked.select(~is_tie), asked)


def question_sheet(chosen: dict[str, QuestionChoice], pairs: Preferences, options: ReadingOptions) -> str:
    """CSV with a line for each question and an empty column `winner`: write first, second or tie into it."""
    has_texts = pairs.is_text or pairs.item_names is not None
    prompt_column = options.prompt_column if has_texts else options.prompt_index_column
    names = [options.annotator_column, prompt_column, *SIDES[has_texts], "information", "winner"]
    lines = []
    for person, choice in chosen.items():
        for row, information in zip(choice.indices.tolist(), choice.information.tolist(), strict=True):
            prompt = int(pairs.prompt_indices[row])
            items = pairs.item_indices[row].tolist()
            texts = [_cell(pairs.item_text(item)) for item in items] if has_texts else items
            shown = (_cell(pairs.prompts[prompt]) if pairs.is_text else prompt) if prompt >= 0 else ""
            lines.append(["" if person == PANEL else person, shown, *texts, f"{information:.4f}", ""])
    computed = next((cell for line in lines for cell in line if str(cell).startswith(FORMULA)), None)
    if computed is not None:
        print_note(f"questions.csv has texts that a spreadsheet would compute ({computed[:40]!r}); open it as text.")
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([names, *lines])
    return file.getvalue()


def with_answers(model: PALRewardModel, answers: Preferences, embeddings: np.ndarray | None) -> list[str]:
    """Give everybody who answered, and is not known to the model, weights of their own; returns their ids."""
    known = model.annotators.indices(answers.annotator_ids, unknown=-1) >= 0
    if known.any():
        ids = sorted(set(answers.annotator_ids[known].tolist()))
        print_note(f"{len(ids)} of those who answered are in the model and keep their weights ({ids[0]!r}, …).")
    if known.all():
        return []
    fit = model.fit_annotators(answers.select(~known), embeddings=embeddings)
    model.add_annotators(fit)
    return fit.ids


def _cell(text: Any) -> str:
    return text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)


def _judgements(sheet: Table, options: ReadingOptions, is_text: bool) -> tuple[list[dict[str, Any]], np.ndarray]:
    """A row with a chosen and a rejected completion for each question with a winner, and which of them are ties."""
    rows, is_tie = [], []
    left, right = SIDES[is_text]
    better, worse = options.pair(is_text)
    others = (options.annotator_column, options.prompt_column, options.prompt_index_column)
    for number, row in enumerate(sheet):
        cell = str(row.get("winner") or "").strip()
        if not cell:
            continue
        side = side_of_word(cell)
        if side is None:
            raise ValueError(
                f"{sheet.name}, line {sheet.line(number) or number + 2}: winner is {cell[:40]!r}; write first, second "
                "or tie, or leave it empty where there is no answer yet."
            )
        both = (row[right], row[left]) if side == SECOND else (row[left], row[right])
        kept = {name: row[name] for name in others if row.get(name) is not None}
        rows.append(kept | {better: both[0], worse: both[1]})
        is_tie.append(side == TIE)
    return rows, np.array(is_tie, dtype=bool)
