"""What was read: the summary that one can check at a glance, printed by every command and kept in the report."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from palign.data.rows.checks import Text, shorten

__all__ = ["Reading", "first_row", "odd_texts", "print_note", "print_reading", "similar_ids"]

WIDTH = 26
N_ODD = 0.01  # share of odd texts from which on a note is printed
_FLOAT = re.compile(r"^(\d+)\.0$")
_ESCAPED = re.compile(r"&(?:amp|lt|gt|quot|nbsp|#0?39|#x27);")
_TRANSCRIPT = re.compile(r"\s*(?:Human|User):.*?\n\s*(?:Assistant|AI|Bot):", re.S)


@dataclass
class Reading:
    """How a table became preferences.

    Attributes:
        name: of the file or data set.
        n_rows: rows that it has, bad ones included.
        n_preferences: rows that were kept.
        n_people: people who gave them.
        left_out: what for → how many rows, that hold no preference (ties).
        columns: (what, column, remark) for each column that was used.
        first: the first row as it was understood.
        notes: what was assumed or dropped, a sentence each.
    """

    name: str
    n_rows: int
    n_preferences: int
    n_people: int
    left_out: dict[str, int] = field(default_factory=dict)
    columns: list[tuple[str, str, str]] = field(default_factory=list)
    first: str = ""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The summary, a line each."""
        what = "preference" if any(kind in ("winner", "better") for kind, _, _ in self.columns) else "prompt"
        left = "; ".join(f"{count:,} {what}" for what, count in self.left_out.items() if count)
        head = (
            f"read {self.name or 'rows'}: {self.n_rows:,} {_plural('row', self.n_rows)} → {self.n_preferences:,} "
            f"{_plural(what, self.n_preferences)} of {self.n_people:,} "
            f"{'person' if self.n_people == 1 else 'people'}{f' ({left})' if left else ''}"
        )
        lines = [head, *(f"  {what:<8} {column:<{WIDTH}} {remark}".rstrip() for what, column, remark in self.columns)]
        if self.first:
            lines.append(f"  first row: {self.first}")
        return [*lines, *(f"  note: {note}" for note in self.notes)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def first_row(annotator: str, prompt: Text | None, texts: Sequence[Text], ranks: Sequence[int]) -> str:
    """One judgement in a line: who, what was asked, what was preferred to what."""
    worst = max(ranks)
    preferred = [text for text, rank in zip(texts, ranks, strict=True) if rank == 0]
    over = [text for text, rank in zip(texts, ranks, strict=True) if rank == worst]
    asked = f' · "{glance(prompt)}"' if prompt else ""
    between = f" · {len(texts)} answers in order" if len(texts) > 2 else ""
    return (
        f'{shorten(annotator)[1:-1]}{asked}{between} · preferred "{glance(preferred[0])}" · over "{glance(over[0])}"'
    )


def glance(text: Text, width: int = 48) -> str:
    """A text, or the last message of a conversation, on one line and cut; control characters cannot break out."""
    if not isinstance(text, str):
        text = str(text[-1].get("content", "")) if text else ""
    shown = "".join(c if c.isprintable() else " " for c in text[: 4 * width])
    shown = " ".join(shown.split())
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def similar_ids(names: Sequence[str]) -> list[str]:
    """A sentence where ids differ only by case, outer blanks or `.0`; they are kept as different people."""
    n_alike, shown = _alike(names)
    if not n_alike:
        return []
    return [
        f"{n_alike:,} ids differ only by case or outer blanks, or by '.0' behind a number, and are kept as "
        f"different people: {shown}"
    ]


def similar_groups(column: str, labels: Sequence[object]) -> list[str]:
    """A sentence where groups of a column differ only in that; they are kept as different groups."""
    n_alike, shown = _alike(list(dict.fromkeys(label for label in labels if isinstance(label, str))))
    if not n_alike:
        return []
    return [f"groups of {column!r} differ only by case or outer blanks, and are kept as different groups: {shown}"]


def _alike(names: Sequence[str]) -> tuple[int, str]:
    """How many names have others like them, and the first of them."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_FLOAT.sub(r"\1", name.strip().casefold()), []).append(name)
    alike = [group for group in groups.values() if len(group) > 1]
    shown = "; ".join(" and ".join(map(repr, group[:3])) for group in alike[:3])
    return len(alike), f"{shown}{'; …' if len(alike) > 3 else ''}"


def odd_texts(prompts: Sequence[Text], completions: Sequence[Text]) -> list[str]:
    """Sentences on texts that are read as they stand and were probably meant otherwise: escaped HTML, transcripts."""
    plain = [text for text in (*prompts, *completions) if isinstance(text, str) and text]
    notes = []
    n_escaped = sum("&" in text and _ESCAPED.search(text) is not None for text in plain)
    if n_escaped > N_ODD * len(plain):
        notes.append(
            f"{n_escaped:,} of {len(plain):,} texts hold escaped HTML (&amp;, &lt;, …) and are read as they stand: "
            "unescape them, if people saw the signs themselves"
        )
    texts = [text for text in completions if isinstance(text, str) and text]
    n_transcripts = sum(_TRANSCRIPT.match(text) is not None for text in texts)
    if n_transcripts > N_ODD * len(texts):
        notes.append(
            f"{n_transcripts:,} of {len(texts):,} completions are transcripts (Human: … Assistant: …), the question "
            "among them: give them as messages, or the question as the prompt"
        )
    return notes


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def print_reading(reading: Reading | None) -> None:
    """Print how rows were read, in the main process only."""
    if reading is not None and os.environ.get("RANK", "0") == "0":
        print(reading, flush=True)


def print_note(sentence: str | None) -> list[str]:
    """Print a further line of the summary, in the main process only; returns it for the report, or nothing."""
    if sentence is None:
        return []
    if os.environ.get("RANK", "0") == "0":
        print(f"  note: {sentence}", flush=True)
    return [sentence]
