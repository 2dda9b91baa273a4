"""Is the better completion told apart without reading it: by its form, or by its length?"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from palign.data.guards.finding import ALPHA, Finding, Pairs, both_tails, plain_text, sample
from palign.data.preferences import Preferences
from palign.data.rows.columns import ColumnNames

__all__ = ["check_form", "check_length", "check_length_sign", "check_raw_form"]

FORM_DIFFERS, FORM_WINS = 0.05, 0.9  # least share of rows that differ in a form; of those, the share it wins or loses
FORM_RULES, FORM_RULES_WINS = 0.5, 0.98  # from here on: stop
N_TEXTS = 10  # texts of a form, and of its absence; a single popular text is no form
LONGER_WINS, LONGER_RULES = 0.65, 0.9
SIGN_WINS, SIGN_RULES = 0.8, 0.95

LANGUAGES = {
    "English": "the and of to is that it for was with are this be have not on you",
    "German": "der die und das ist nicht ein zu den mit es sich auf für ich auch eine",
    "French": "le la les et des est une dans que pour pas qui sur du ce il je",
    "Spanish": "el los y que en una por con para es las del se lo no su como",
    "Italian": "il di che è per non una sono della con le si da come anche gli",
    "Dutch": "het een en van niet dat zijn voor met op aan ook er maar ik je",
    "Portuguese": "o que não uma os para com em do da se por mais as dos ao",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _name, _words in LANGUAGES.items():
    for _word in _words.split():
        _LANGUAGES_OF.setdefault(_word, []).append(_name)
_NOT_LATIN = re.compile(r"[\u0370-\u1dff\u2c00-\ud7ff\uf900-\ufdff\U00010000-\U0001efff]")
_LATIN = re.compile(r"[A-Za-zÀ-ɏ]")
_TEMPLATE = re.compile(
    r"<\|[^|<>]{1,40}\|>|\[/?INST\]|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>|^### \w+"
    r"|^(?:human|user|assistant|bot|gpt|response|answer|summary|tl;dr)\s*:",
    re.I | re.M,
)
_MARKDOWN = re.compile(r"^(?:#{1,6} |[-*+] |\d{1,2}[.)] |```)|\*\*", re.M)
_HTML = re.compile(r"</?[a-z][a-z0-9]{0,10}(?:\s[^<>]*)?/?>|&(?:amp|lt|gt|quot|nbsp|#\d{2,5});", re.I)

FORMS: dict[str, Callable[[str], bool]] = {
    "begins with a blank": lambda t: t[:1].isspace(),
    "ends with a blank": lambda t: t[-1:].isspace(),
    "begins with a capital letter": lambda t: t.lstrip()[:1].isupper(),
    "has capital letters": lambda t: t != t.lower(),
    "ends with a mark (.!?…)": lambda t: t.rstrip()[-1:] in tuple(".!?…"),
    "has line breaks": lambda t: "\n" in t.strip(),
    "has two blanks in a row": lambda t: "  " in t,
    "has a carriage return": lambda t: "\r" in t,
    "has typographic quotes": lambda t: any(mark in t for mark in "“”‘’«»"),
    "stands in quotes": lambda t: t.strip()[:1] in tuple("\"'“«") and t.strip()[-1:] in tuple("\"'”»"),
    "has marks of a template": lambda t: _TEMPLATE.search(t) is not None,
    "has lists or headings": lambda t: _MARKDOWN.search(t) is not None,
    "has HTML": lambda t: _HTML.search(t) is not None,
    "is not in Latin letters": lambda t: len(_NOT_LATIN.findall(t[:400])) > len(_LATIN.findall(t[:400])),
    "is empty": lambda t: not t.strip(),
}


def check_raw_form(rows: Sequence[Mapping[str, Any]], names: ColumnNames | None = None) -> Finding:
    """Are chosen and rejected of different types (a list against a text) in the rows as they stand in the file?

    Reading puts both into one form; whoever else reads the file tells them apart without a word of content.
    """
    names = names or ColumnNames()
    kinds = []
    for record in rows:
        ranked = record.get(names.completions_column)
        if isinstance(ranked, (list, tuple)) and len(ranked) > 1 and record.get(names.ratings_column) is None:
            kinds.append((_kind(ranked[0]), _kind(ranked[-1])))
        else:
            kinds.append(tuple(_kind(record.get(column)) for column in names.pair(True)))
    differ = [row for row, (better, worse) in enumerate(kinds) if better != worse and None not in (better, worse)]
    share = len(differ) / max(len(rows), 1)
    if not differ:
        return Finding.of("raw_form", "ok", 0.0, "chosen and rejected are of one type in every row.")
    (better, worse), count = Counter(kinds[row] for row in differ).most_common(1)[0]
    is_sure = count / len(differ) >= FORM_WINS
    return Finding.of(
        "raw_form",
        "stop" if is_sure and share >= FORM_RULES else "look",
        share,
        f"In {count:,} of {len(rows):,} rows the better completion is {better} and the worse one {worse}: type alone "
        "tells which is which. Write both the same way.",
        differ,
    )


def _kind(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None else "a text"
    if isinstance(value, (list, tuple)):
        return "a list of messages" if value and isinstance(value[0], Mapping) else "a list of texts"
    return f"a {type(value).__name__}"


def check_form(prefs: Preferences, *, split: str = "", seed: int = 0) -> Finding:
    """Does a form (a blank, a capital, a script, a template, a first or last word) tell the better completion?

    Looks at rows whose best and worst item differ in the form, and at how many of them the better one has it.
    """
    if not prefs.is_text:
        return Finding.of("form", "ok", 0.0, "the rows name vectors; their form is not looked at.")
    pairs = Pairs.of(prefs, sample(len(prefs), seed=seed))
    features, best_text, worst_text = _form_table(prefs, pairs)
    worst = None
    for name, has in features.items():
        better, worse = has[best_text], has[worst_text]
        differ = better != worse
        n, wins = int(differ.sum()), int((better & differ).sum())
        share, decided = max(wins, n - wins) / max(n, 1), n / len(pairs)
        by_word = name.startswith(("begins with the word", "ends with the word"))
        least = FORM_RULES if by_word else FORM_DIFFERS
        enough = min(has.sum(), len(has) - has.sum()) >= N_TEXTS
        certain = both_tails(wins, n) < ALPHA / len(features)
        if enough and certain and decided >= least and share >= FORM_WINS:
            stops = decided >= FORM_RULES and share >= FORM_RULES_WINS
            if worst is None or (stops, share * decided) > worst[0]:
                rows = pairs.rows[differ & (better == (wins * 2 >= n))]
                worst = (stops, share * decided), name, wins, n, rows
    if worst is None:
        return Finding.of("form", "ok", 0.0, f"no form of {len(features)} tells the better completion.")
    (stops, value), name, wins, n, rows = worst
    which, count = ("better", wins) if wins * 2 >= n else ("worse", n - wins)
    return Finding.of(
        "form",
        "stop" if stops else "look",
        value,
        f"The completion that {name} is the {which} one in {count:,} of the {n:,} rows where one of the two does (of "
        f"{len(pairs):,} looked at): form tells the label. Write both completions the same way, or see why they are "
        "not.",
        rows,
        split,
    )


def _form_table(prefs: Preferences, pairs: Pairs) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """name → which texts have the form (n_texts,) bool; the numbers (n,) of each pair's better and worse text."""
    used, inverse = np.unique(np.r_[pairs.best, pairs.worst], return_inverse=True)
    number: dict[str, int] = {}  # one text under several prompts is one text
    of_item = [number.setdefault(repr(prefs.items[item][1]), len(number)) for item in used]
    first = np.unique(of_item, return_index=True)[1]
    completions = [prefs.items[item][1] for item in used[first]]
    texts = [plain_text(completion) for completion in completions]
    features = {name: np.fromiter(map(test, texts), bool, len(texts)) for name, test in FORMS.items()}
    languages = np.array([_language(text) for text in texts], dtype=object)
    for name in [name for name, _ in Counter(languages).most_common(3) if name]:
        features[f"is in {name}"] = languages == name
    if any(not isinstance(completion, str) for completion in completions):
        features["has several messages"] = np.array([not isinstance(c, str) and len(c) > 1 for c in completions])
        roles = np.array([c[-1]["role"] if not isinstance(c, str) else "" for c in completions], dtype=object)
        features |= {f"ends with a message by {role!r}": roles == role for role, _ in Counter(roles).most_common(3)}
    for where, pick in (("begins", lambda t: t[:200].split()[:1]), ("ends", lambda t: t[-200:].split()[-1:])):
        edge_words = np.array(["".join(pick(text)) for text in texts], dtype=object)
        for word, _ in Counter(edge_words).most_common(3):
            features[f"{where} with the word {word!r}"] = edge_words == word
    text_of = np.array(of_item)[inverse]
    return features, text_of[: len(pairs)], text_of[len(pairs) :]


def _language(text: str) -> str:
    """The language, by its commonest words; "" where there are fewer than three of them."""
    hits = Counter(name for word in text[:400].lower().split() for name in _LANGUAGES_OF.get(word, ()))
    return next((name for name, count in hits.most_common(1) if count >= 3), "")


def _lengths(prefs: Preferences, pairs: Pairs) -> np.ndarray:
    """(n,) −1, 0 or 1: the better completion is shorter, as long, longer (in characters)."""
    used, inverse = np.unique(np.r_[pairs.best, pairs.worst], return_inverse=True)
    texts = (plain_text(prefs.items[item][1]) for item in used)
    length = np.fromiter((len(text.strip()) for text in texts), np.int64, len(used))[inverse]
    return np.sign(length[: len(pairs)] - length[len(pairs) :])


def check_length(prefs: Preferences, *, split: str = "", seed: int = 0) -> Finding:
    """How often the longer of two (of a ranking, two at random) is the better one; equal lengths count one half."""
    if not prefs.is_text:
        return Finding.of("length", "ok", 0.5, "the rows name vectors; they have no length.")
    pairs = Pairs.typical(prefs, seed=seed)
    sign = _lengths(prefs, pairs)
    share = float((sign + 1).mean() / 2)
    wins, n = int((sign > 0).sum()), int((sign != 0).sum())
    accuracy = max(share, 1 - share)
    which = "longer" if share >= 0.5 else "shorter"
    sentence = f"The {which} completion is the better one in {accuracy:.1%} of {len(pairs):,} rows"
    if accuracy < LONGER_WINS or both_tails(wins, n) >= ALPHA:
        return Finding.of("length", "ok", share, f"{sentence}.")
    return Finding.of(
        "length",
        "stop" if accuracy >= LONGER_RULES else "look",
        share,
        f"{sentence}: put any model's accuracy beside that of length alone.",
        pairs.rows[sign == (1 if share >= 0.5 else -1)],
        split,
    )


def check_length_sign(prefs: Preferences, *, split: str = "", seed: int = 0) -> Finding:
    """Accuracy of "longer wins" or "shorter wins", one of the two for each annotator, chosen on half of that person's
    rows and judged on the other half: without a taste for length it is one half, however few rows a person has.
    """
    if not prefs.is_text:
        return Finding.of("length_sign", "ok", 0.5, "the rows name vectors; they have no length.")
    pairs = Pairs.typical(prefs, seed=seed)
    sign = _lengths(prefs, pairs).astype(float)
    half = np.random.default_rng(seed).integers(2, size=len(pairs))
    sums = [np.bincount(pairs.people, sign * (half == h), minlength=pairs.n_people) for h in (0, 1)]
    agreement = np.sign(np.where(half == 0, sums[1][pairs.people], sums[0][pairs.people])) * sign
    hits, n = int((agreement > 0).sum()), int((agreement != 0).sum())
    accuracy = hits / max(n, 1)
    sentence = (
        "Whether an annotator likes longer or shorter answers, learned from half of their rows, foretells "
        f"{accuracy:.1%} of the other half ({n:,} rows in all whose answers differ in length)"
    )
    if accuracy < SIGN_WINS or n < len(pairs) / 2 or both_tails(hits, n) >= ALPHA:
        return Finding.of("length_sign", "ok", accuracy, f"{sentence}.")
    return Finding.of(
        "length_sign",
        "stop" if accuracy >= SIGN_RULES else "look",
        accuracy,
        f"{sentence}: types may be tastes for length and nothing else. Compare a model's accuracy with this one.",
        pairs.rows[agreement > 0],
        split,
    )
