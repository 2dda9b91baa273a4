"""What a report is made of, in a few named words: the rows, what was trained on them, on which model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from palign.data.preferences import Preferences

if TYPE_CHECKING:
    from palign.evaluation.judging.kinds import ModelSource
    from palign.evaluation.judging.unseen_rows import UnseenRows

__all__ = ["data_facts", "evaluation_facts", "n_in_no_number", "policy_facts"]

READ = "read "  # what the first line of a reading begins with


def data_facts(train: Preferences, evaluation: Preferences, base: str) -> dict[str, str]:
    """Where the rows are from, what was trained on, who is in no number, on what.

    Args:
        base: the backbone or language model by a name, such as its name or folder.
    """
    facts = _rows_fact(train) | {"trained on": f"{len(train):,} judgements of {len(train.annotators()):,} annotators"}
    n_left = n_in_no_number(train, evaluation)
    if n_left:
        facts["in no number"] = f"{n_left:,} annotators trained on who have no row held out"
    return facts | {"backbone": base}


def evaluation_facts(rows: Preferences, unseen: "UnseenRows", judged: "Sequence[ModelSource]") -> dict[str, str]:
    """Where the rows are from, how many are left out, which models are judged."""
    facts = _rows_fact(rows)
    if unseen.n_left_out:
        facts["left out"] = f"{unseen.n_left_out:,} rows that a model was trained on"
        if unseen.n_people_left_out:
            facts["left out"] += f", and with them {unseen.n_people_left_out:,} annotators who have no other"
    backbones = [backbone for source in judged if (backbone := source.backbone)]
    facts["models"] = ", ".join(f"{source.name} ({source.kind})" for source in judged)
    return facts | ({"backbone": ", ".join(dict.fromkeys(backbones))} if backbones else {})


def policy_facts(reading: Sequence[str], base: str | None) -> dict[str, str]:
    """The rows, as the first line of their reading has them, and the language model."""
    return _reading_fact(reading) | {"backbone": base or "the embedded language model"}


def n_in_no_number(train: Preferences, evaluation: Preferences) -> int:
    """Annotators who were trained on and have no row to be judged by."""
    judged = set(evaluation.annotators().ids)
    return sum(name not in judged for name in train.annotators().ids)


def _rows_fact(rows: Preferences) -> dict[str, str]:
    return _reading_fact([] if rows.reading is None else rows.reading.lines())


def _reading_fact(lines: Sequence[str]) -> dict[str, str]:
    """Where rows are from, by the lines that say how they were read; nothing of rows that were not read."""
    return {"data": lines[0].removeprefix(READ)} if lines and lines[0].startswith(READ) else {}
