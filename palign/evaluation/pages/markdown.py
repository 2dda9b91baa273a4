"""report.json's content → report.md. Whatever came from a user's rows or names is text here, never markup."""

import re
from collections.abc import Iterable

from palign.evaluation.pages.regrets import MEANING, opens_with_regrets, regret_table
from palign.evaluation.pages.report_keys import AnyEstimate, ModelRecord, ReportRecord, SectionRecord, SettingsRecord
from palign.evaluation.pages.sentences import (
    IF_ALIKE,
    WHAT_THE_NUMBERS_ARE,
    computed_sentences,
    frame_of,
    likes_sentence,
    overall_frame,
    reading_and_notes,
    section_title,
    span,
    value_and_interval,
)

__all__ = ["escape", "render_report"]

GROUPS_SHOWN = 50  # rows of a table; report.json has them all
LONGEST_TEXT = 120
MARKUP = {character: f"&#{ord(character)};" for character in "&<>|`*[]~#\\@"}
EDGE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")  # within a word it marks nothing


def escape(text: object) -> str:
    """Any text as it stands, on one line, safe in a Markdown table and in the page made of it.

    Pipes, backticks, angle brackets and the rest of Markdown's characters become character references, an underscore
    where it is not within a word. Line breaks and control characters become spaces, links are taken apart, and what is
    longer than 120 characters is cut.
    """
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", str(text)).strip()
    if len(text) > LONGEST_TEXT:
        text = text[: LONGEST_TEXT - 1] + "…"
    marked = EDGE.sub("&#95;", "".join(MARKUP.get(character, character) for character in text))
    return re.sub(r"(?i)(www)\.", r"\1&#46;", marked.replace("://", ":&#47;&#47;"))


def render_report(data: ReportRecord) -> str:
    """The whole page, from the content of report.json."""
    settings = data["settings"]
    sentences = [*data.get("conclusion", []), *data["headline"]]
    lines = [f"# {escape(data['title'])}", "", *_paragraphs(_escaped_sentence(s) for s in sentences)]
    lines += ["", *(f"- {escape(name)}: {escape_long(value)}" for name, value in data["facts"].items())]
    lines += ["", *(line for text in WHAT_THE_NUMBERS_ARE for line in (text, ""))]
    lines += _paragraphs([escape_long(" ".join(computed_sentences(data)))])
    reading, notes = reading_and_notes(data["notes"])
    lines += [*(f"- {escape_long(line)}" for line in reading), "", *_paragraphs(escape_long(note) for note in notes)]
    likes = data["figures"].get("likes", [])
    if likes:
        lines += ["", "## What each type likes", "", *_paragraphs(escape_long(likes_sentence(one)) for one in likes)]
    if opens_with_regrets(data):
        head, rows = regret_table(data)
        lines += ["", "## Regret", "", MEANING, ""]
        lines += _table([escape(name) for name in head], [[escape(cell) for cell in cells] for cells, _ in rows])
    for section in data["sections"]:
        lines += ["", f"## {section_title(section, data)}", "", *_section(section, settings)]
    if data["extra"]:
        rows = [[escape(name), escape(span(v) if isinstance(v, float) else v)] for name, v in data["extra"].items()]
        lines += ["", "## The run", "", *_table(["figure", "value"], rows)]
    lines += ["", f"palign {escape(data['palign_version'])}, report schema {data['schema_version']}.", ""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _section(section: SectionRecord, settings: SettingsRecord) -> list[str]:
    lines = ["### Side by side", "", *_side_by_side(section["models"], settings), ""]
    people = [settings["annotator_column"]]
    for groups in [g for g in settings["groups"] if g != people]:
        lines += [f"### By {escape(' × '.join(groups))}", ""]
        for metric in dict.fromkeys(name for model in section["models"] for name in model["metrics"]):
            lines += [*_by_group(section, groups, metric), ""]
    lines += ["### By annotator", "", *_by_annotator(section["models"], people), ""]
    notes = [*section["notes"]]
    for model in section["models"]:
        for frame in model["frames"]:
            notes += [f"{model['model']}, by {' × '.join(frame['groups'])}: {note}" for note in frame["notes"]]
    return lines + _paragraphs(escape_long(note) for note in notes)


def _side_by_side(models: list[ModelRecord], settings: SettingsRecord) -> list[str]:
    """Overall and spread of every model, for the grouping that the report opens with."""
    rows = []
    for model in models:
        frame = overall_frame(model, settings)
        for metric, stats in frame["metrics"].items():
            cells = [
                _cell(stats["overall"]),
                escape(stats["worst"]["group"] or "–"),
                _cell(stats["worst"]),
                _cell(stats["gap"]),
            ]
            rows.append([escape(model["model"]), escape(metric), *cells, span(stats["ratio"]["value"])])
    return _table(["model", "metric", "overall", "worst group", "its value", "gap", "ratio"], rows)


def _by_group(section: SectionRecord, groups: list[str], metric: str) -> list[str]:
    """One table: a row per group, a column per model, and the paired difference from the baseline."""
    models = [m for m in section["models"] if metric in m["metrics"]]
    values = {
        m["model"]: {row["group"]: row for row in frame_of(m, groups)["metrics"][metric]["by_group"]} for m in models
    }
    comparisons = [c for c in section["comparisons"] if (c["groups"], c["metric"]) == (groups, metric)]
    compared = {f"{escape(c['second'])} − {escape(c['first'])}": c for c in comparisons}
    header = [escape(" × ".join(groups)), "annotators", "judgements"]
    header += [escape(name) for name in values]
    header += list(compared)
    differences = {
        name: {row["group"]: row for row in comparison["rows"] if row["stat"] == "by_group"}
        for name, comparison in compared.items()
    }
    every = list(dict.fromkeys(group for by_group in values.values() for group in by_group))
    rows = []
    for group in every[:GROUPS_SHOWN]:
        known = [by_group[group] for by_group in values.values() if group in by_group]
        counts = [
            "/".join(dict.fromkeys(str(row[name]) for row in known)) for name in ("n_annotators", "n_judgements")
        ]
        cells = [_cell(by_group.get(group)) for by_group in values.values()]
        cells += [_cell(by_group.get(group), signed=True) for by_group in differences.values()]
        unranked = known and not known[0]["is_ranked"] and known[0]["value"] is not None
        rows.append([escape(group) + (" (not ranked)" if unranked else ""), *counts, *cells])
    more = [f"{len(every) - GROUPS_SHOWN} further groups are in report.json."] if len(every) > GROUPS_SHOWN else []
    return [f"**{escape(metric)}**", "", *_table(header, rows), *([""] + more if more else [])]


def _by_annotator(models: list[ModelRecord], people: list[str]) -> list[str]:
    rows = []
    for model in models:
        for metric, stats in frame_of(model, people)["metrics"].items():
            low, middle, high = (span(stats["quantiles"][share]) for share in ("0.1", "0.5", "0.9"))
            tail = [
                cell for stat in ("cvar", "gini") for cell in (_cell(stats[stat]), span(stats[stat].get("if_alike")))
            ]
            counts = [str(model["n_annotators"]), str(model["n_judgements"])]
            rows.append([escape(model["model"]), escape(metric), *counts, low, middle, high, *tail])
    header = [
        "model",
        "metric",
        "annotators",
        "judgements",
        "10 % have less than",
        "median",
        "90 % have less than",
        "mean of the worst tenth",
        "if alike",
        "Gini",
        "if alike",
    ]
    return [*_table(header, rows), "", IF_ALIKE]


def _cell(estimate: AnyEstimate | None, *, signed: bool = False) -> str:
    number, interval = value_and_interval(estimate, signed=signed)
    return f"{number} ({interval})" if interval else number


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _paragraphs(texts: Iterable[str]) -> list[str]:
    return [line for text in texts for line in (text, "")]


def _escaped_sentence(sentence: str) -> str:
    return f"**Warning**{escape_long(sentence[7:])}" if sentence.startswith("Warning:") else escape_long(sentence)


def escape_long(text: str) -> str:
    """:func:`escape` word by word, so that a sentence is not cut but an id in it is."""
    return " ".join(escape(word) for word in text.split())
