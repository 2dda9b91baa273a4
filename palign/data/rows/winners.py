"""Two answers and a winner: which side does a cell of the winner column name?

A cell may hold a word ("left", "model_b", "A is better", "tie"), a comparison ("A>B"), a number, the text or the name
of the winning answer, or one of these in a small object ({"selected": "left"}). What is not understood is an error
that lists it; nothing is ever taken for a tie.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from palign.data.rows.checks import shorten

__all__ = ["FIRST", "SECOND", "TIE", "Winners", "counterpart", "side_of_word"]

FIRST, SECOND, TIE = 0, 1, 2
SIDES = ("first", "second", "tie")

_NOUN = (
    r"(?:model|response|answer|completion|assistant|option|side|candidate|text|output|summary|item|choice|system|bot|"
    r"conversation|reply|message|statement|version|sample|generation|prediction|argument|player|agent)"
)
_SIDE_WORDS = {
    **dict.fromkeys(("a", "left", "first", "1st", "one", "x"), FIRST),
    **dict.fromkeys(("b", "right", "second", "2nd", "two", "y"), SECOND),
}
_SIDES_IN_NAMES = {"a", "b", "left", "right", "first", "second"}
_NUMBERED = {"1": FIRST, "2": SECOND}
_SIDE = rf"(?P<side>{'|'.join(_SIDE_WORDS)}|1|2)"
_DEGREE = (
    r"(?:much|slightly|clearly|significantly|far|somewhat|a bit|a little|strongly|marginally|considerably|definitely|"
    r"moderately|a lot|way|by far)"
)
_BETTER = rf"(?:{_DEGREE} )?(?:better|best|preferred|wins|win|won|winner|chosen|stronger|superior|selected)"
_WORSE = rf"(?:{_DEGREE} )?(?:worse|worst|loses|lost|weaker|inferior|rejected)"
_NAMED = rf"(?:the )?(?:(?P<noun>{_NOUN}) ?{_SIDE}|{_SIDE.replace('side', 'side2')}(?: (?P<noun2>{_NOUN}))?)"
_WORD = re.compile(
    rf"(?:(?:i )?(?:prefer|prefers|preferred|chose|choose|{_DEGREE} prefer) )?{_NAMED}"
    rf"(?: (?:is |was )?(?:the )?(?:(?P<better>{_BETTER})|(?P<worse>{_WORSE})))?(?: than .{{1,30}}| over .{{1,30}})?"
)
_SHORT = "[ab12]|left|right|first|second"
_COMPARED = re.compile(rf"(?:{_NOUN} ?)?(?P<one>{_SHORT}) ?(?P<sign>>+|<+|=+|≈|~) ?(?:{_NOUN} ?)?(?P<two>{_SHORT})")
_TIES = re.compile(
    r"(?:it s |its |it is )?(?:a )?(?:tie|tied|ties|draw|equal|equals|equally \w+|even|same|both|both \w+|"
    r"both are \w+|"
    r"bothbad|neither|neither \w+|neither is better|tie \(? ?both ?\w+ ?\)?|tie both ?\w+|no preference|no difference|"
    r"no winner|indifferent|about (?:the )?(?:same|equal)|(?:the )?same|roughly equal|both (?:are )?equally \w+|"
    r"(?:are )?equally good|both the same|both equal|none is better|about equally \w+)"
)


def side_of_word(cell: str) -> int | None:
    """FIRST, SECOND or TIE, where a text says it by itself; None where it does not."""
    word = re.sub(r"[\s_\-'’.,:;!*]+", " ", cell.casefold()).strip(' []()"{}')
    word = word.replace("( ", "(").replace(" )", ")")
    if not word or len(word) > 80:
        return None
    if (m := _COMPARED.fullmatch(word)) is not None:
        one, two = (_SIDE_WORDS.get(m[part], _NUMBERED.get(m[part])) for part in ("one", "two"))
        if one == two:
            return None
        return TIE if m["sign"][0] in "=≈~" else (one if m["sign"][0] == ">" else two)
    if _TIES.fullmatch(word) is not None:
        return TIE
    m = _WORD.fullmatch(word)
    if m is None:
        return None
    side_text = m["side"] or m["side2"]
    side = _SIDE_WORDS.get(side_text, _NUMBERED.get(side_text))
    if side_text in _NUMBERED and not (m["noun"] or m["noun2"] or m["better"] or m["worse"]):
        return None  # a bare number: the whole column says what it means
    return 1 - side if m["worse"] else side


def counterpart(name: str) -> str | None:
    """The second side's column for that of the first ("model_a" → "model_b"); None where a name says no side."""
    for first, second in (("first", "second"), ("left", "right"), ("one", "two"), ("a", "b"), ("1", "2"), ("0", "1")):
        for here, there in ((first, second), (first.capitalize(), second.capitalize())):
            edge = r"[A-Za-z0-9]"
            pattern = rf"(?<!{edge}){here}(?!{edge})"
            if len(here) == 1 and (here.isdigit() or here.isupper()):
                pattern += rf"|(?<=[a-z]){here}$"  # response1, answerA
            elif len(here) > 1:
                pattern += rf"|(?<=[a-z]){here.capitalize()}$|^{here}(?=[A-Z])"
            if re.search(pattern, name):
                return re.sub(pattern, there, name, count=1)
    return None


class Winners:
    """The sides of a whole winner column: what a number means is told by all the numbers that are there.

    Args:
        cells: (n_rows) the column.
        first, second: names of the columns of the two answers.
        column: name of the winner column.
        columns: every column there is; pairs like model_a and model_b may be what a winner is named by.
        values: what the user says a cell means, as "first=0", or a mapping {"first": 0, …}; None for what can be told.

    Attributes:
        assumption: what was taken to mean what, where numbers do not say it by themselves; "" where nothing was.
        is_strength: the cells are signed numbers whose size says how much better.
        counts: cell as shown → (side, how often), of the rows read so far.
        unknown_lines: lines of the file with cells that were not understood, where there are lines.
    """

    def __init__(
        self,
        cells: Sequence[Any],
        first: str,
        second: str,
        column: str,
        columns: Sequence[str],
        values: Mapping[str, Any] | Sequence[str] | None = None,
    ) -> None:
        self.first, self.second, self.column = first, second, column
        self.assumption, self.is_strength = "", False
        self.unknown: Counter[str] = Counter()
        self.unknown_lines: list[int] = []
        self.counts: dict[str, list[int]] = {}
        there = set(columns)
        pairs = [(name, counterpart(name)) for name in columns]
        self.pairs = [
            (first, second),
            *((a, b) for a, b in pairs if b in there and b != a and (a, b) != (first, second)),
        ]
        self.pairs = [pair for pair in self.pairs if column not in pair]
        self._stated = None if not values else _stated_values(values)
        self._numbers = {} if self._stated is not None else self._number_sides(cells)
        self._known: dict[Any, tuple[int | None, Any]] = {}

    def _number_sides(self, cells: Sequence[Any]) -> dict[float, int]:
        numbers = {n for n in (plain_value(cell) for cell in _distinct(cells)) if isinstance(n, float)}
        if not numbers or self._names_a_side():
            return {}
        if min(numbers) < 0:
            self.is_strength = True
            self.assumption = (
                f"a negative {self.column} means {self.first} is better, a positive one {self.second}, 0 a tie"
            )
            return {n: TIE if n == 0 else (FIRST if n < 0 else SECOND) for n in numbers}
        for low, high in ((0.0, 1.0), (1.0, 2.0)):
            if numbers == {low, high}:
                self.assumption = f"{low:g} means {self.first} and {high:g} {self.second}"
                return {low: FIRST, high: SECOND}
        return {}

    def _names_a_side(self) -> bool:
        """Whether the column's name speaks of one answer ("a_is_better", "winner_model_b"): then 1 may well mean yes,
        and what numbers mean is not taken from their order.
        """
        name_parts = re.split(r"[\W_]+", self.column.casefold())
        return bool(_SIDES_IN_NAMES & set(name_parts)) or any(
            name.casefold() in self.column.casefold() for name in (self.first, self.second)
        )

    def side(self, cell: Any, record: Mapping[str, Any]) -> int | None:
        """FIRST, SECOND or TIE; None where it is not understood (then it is counted in `unknown`)."""
        try:
            side, value = self._known[cell]
        except (KeyError, TypeError):
            value = plain_value(cell)
            side = self._of_value(value)
            if isinstance(cell, (str, int, float)):
                self._known[cell] = side, value
        if self._stated is None and value is not None:
            side = self._checked_by_row(side, value, record)
        shown = _shown(value)
        if side is None:
            self.unknown[shown] += 1
            return None
        if len(self.counts) < 1000 or shown in self.counts:
            self.counts.setdefault(shown, [0, 0, 0])[side] += 1
        return side

    def strength(self, cell: Any) -> float | None:
        """How much better, where the cells are signed numbers."""
        value = plain_value(cell)
        return abs(value) if self.is_strength and isinstance(value, float) else None

    def _of_value(self, value: Any) -> int | None:
        if self._stated is not None:
            return self._stated.get(value.casefold().strip() if isinstance(value, str) else value)
        if isinstance(value, float):
            return self._numbers.get(value)
        return side_of_word(value) if isinstance(value, str) else None

    def _checked_by_row(self, side: int | None, value: Any, record: Mapping[str, Any]) -> int | None:
        """The side that a row itself gives this name or text; None where it says another than the word."""
        text = (_shown(value) if isinstance(value, float) else value).casefold()
        for first, second in self.pairs:
            if text in (first.casefold(), second.casefold()):
                named = FIRST if text == first.casefold() else SECOND
            else:
                is_first, is_second = (_same(text, record.get(name)) for name in (first, second))
                if is_first == is_second:
                    continue
                named = FIRST if is_first else SECOND
            return named if side in (None, named) else None
        return side

    def unknown_message(self, source: str) -> str:
        """One paragraph: what was not understood, how often, what to say."""
        shown = ", ".join(f"{word} ({count:,})" for word, count in self.unknown.most_common(12))
        rest = len(self.unknown) - 12
        numbers = [word for word in self.unknown if re.fullmatch(r"-?\d+(\.\d+)?", word)]
        words = {FIRST: "VALUE", SECOND: "VALUE"}  # what is understood already, so that a slip is not made a tie
        words |= {side: shown for shown, counts in self.counts.items() for side in words if counts[side]}
        example = f"--winner_values first={words[FIRST]} second={words[SECOND]} tie=VALUE"
        if numbers:
            example = f"--winner_values first={numbers[0]} second={numbers[-1] if len(numbers) > 1 else 'B'}"
        named = ""
        if numbers and self._names_a_side():
            named = f" ({self.column!r} speaks of one answer: does 1 mean that it is so?)"
        return (
            f"{f'{source}, c' if source else 'C'}olumn {self.column!r}: {_naming(sum(self.unknown.values()))} a "
            f"winner that is not understood: {shown}{f' and {rest} more' if rest > 0 else ''}{named}"
            f"{self._where()}. Say which value means {self.first!r}, which {self.second!r}, and which a tie, for "
            f"example {example}; several values are joined by commas. If it is a slip, mend the cell, or empty it and "
            "say --bad_rows drop: a winner that is not understood is never dropped unseen."
        )

    def _where(self) -> str:
        """The first lines of the file that hold such a cell."""
        lines = sorted(self.unknown_lines)
        if not lines:
            return ""
        more = ", …" if len(lines) > 5 else ""
        return f" (line{'s' if len(lines) > 1 else ''} {', '.join(map(str, lines[:5]))}{more} of the file)"

    def line(self) -> str:
        """This column in the summary: which value went where, and how often."""
        goes = {FIRST: f" → {self.first}", SECOND: f" → {self.second}", TIE: ""}
        totals = {shown: sum(counts) for shown, counts in self.counts.items()}
        top = sorted(self.counts, key=lambda shown: (-totals[shown], shown))[:8]
        top.sort(key=lambda shown: max(range(3), key=lambda side: self.counts[shown][side]))
        parts = []
        for shown in top:
            counts = self.counts[shown]
            if sum(count > 0 for count in counts) > 1:  # a name of whoever won, on either side
                parts.append(f"{shown!r} ({totals[shown]:,})")
            else:
                side = max(range(3), key=lambda side: counts[side])
                parts.append(f"{shown!r}{goes[side]} ({counts[side]:,})")
        more = len(self.counts) - len(top)
        return f"{self.column} = {', '.join(parts)}{f' and {more:,} more values' if more > 0 else ''}"


def plain_value(cell: Any) -> float | str | None:
    """A cell as a number, a text or nothing, out of a small object or a list of one if need be."""
    if cell is None or (isinstance(cell, float) and cell != cell):
        return None
    if isinstance(cell, bool) or type(cell).__name__ in ("bool_", "bool"):
        return "true" if cell else "false"
    if isinstance(cell, Mapping) and len(cell) == 1:
        return plain_value(next(iter(cell.values())))
    if isinstance(cell, (list, tuple)) and len(cell) == 1:
        return plain_value(cell[0])
    if isinstance(cell, str):
        text = cell.strip()
        if text[:1] in ("{", "[") and text[:2] != "[[":
            try:
                return plain_value(json.loads(text))
            except (ValueError, RecursionError):
                return text
        if re.fullmatch(r"[-+−]?\d{1,15}(?:\.\d+)?", text):
            return float(text.replace("−", "-")) + 0.0
        return text or None
    try:
        return float(cell) + 0.0
    except (TypeError, ValueError, OverflowError):
        return shorten(cell)


def _stated_values(values: Mapping[str, Any] | Sequence[str]) -> dict[Any, int]:
    """Value → side, of what the user says."""
    if not isinstance(values, Mapping):
        pairs = [str(text).partition("=")[::2] for text in ([values] if isinstance(values, str) else values)]
    else:
        pairs = [(side, value) for side, value in values.items()]
    sides: dict[Any, int] = {}
    for name, value in pairs:
        if str(name).strip().lower() not in SIDES:
            raise ValueError(
                f"--winner_values has {str(name)!r}; it takes first=VALUE, second=VALUE and tie=VALUE, such as "
                "--winner_values first=0 second=1 tie=0.5."
            )
        side = SIDES.index(str(name).strip().lower())
        given = (
            value
            if isinstance(value, (list, tuple, set))
            else str(value).split(",")
            if isinstance(value, str)
            else [value]
        )
        for one in given:
            key = plain_value(one)
            key = key.casefold().strip() if isinstance(key, str) else key
            if key is None or sides.setdefault(key, side) != side:
                raise ValueError(f"--winner_values: {one!r} stands for two sides, or for nothing.")
    if not {FIRST, SECOND} <= set(sides.values()):
        raise ValueError(
            "--winner_values must say both sides: first=VALUE second=VALUE, and tie=VALUE if there are ties."
        )
    return sides


def _distinct(cells: Sequence[Any]) -> list[Any]:
    try:
        return list(set(cells))
    except TypeError:
        return list(cells)


def _same(text: str, value: Any) -> bool:
    """Whether a cell says this text, which is in small letters."""
    if isinstance(value, str):
        return len(value) <= len(text) + 4 and value.strip().casefold() == text
    return isinstance(value, (int, float)) and str(value) == text


def _shown(value: float | str | None) -> str:
    if value is None:
        return "nothing"
    return f"{value:g}" if isinstance(value, float) else (value if len(value) <= 60 else value[:59] + "…")


def _naming(count: int) -> str:
    return "1 row names" if count == 1 else f"{count:,} rows name"
