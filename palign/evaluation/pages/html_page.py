"""report.json's content → report.html, one file that asks nothing of any network and runs no script.

A policy in its head forbids both (Content-Security-Policy). Whatever came from a user's rows or names is escaped.
"""

import html
import re
from collections.abc import Iterable, Sequence

from palign.evaluation.pages.pictures import Picture, ordered_models, report_pictures
from palign.evaluation.pages.regrets import (
    MEANING,
    opens_with_regrets,
    regret_cards,
    regret_sentences,
    regret_table,
)
from palign.evaluation.pages.report_keys import (
    AnyEstimate,
    BestRecord,
    FrameRecord,
    LikesRecord,
    ModelRecord,
    ReportRecord,
    SectionRecord,
    SettingsRecord,
    WorstRecord,
)
from palign.evaluation.pages.sentences import (
    IF_ALIKE,
    WHAT_THE_NUMBERS_ARE,
    computed_sentences,
    frame_of,
    interval_text,
    is_chance,
    main_metric,
    opening_frame,
    opening_sentences,
    overall_frame,
    reading_and_notes,
    section_title,
    span,
    value_and_interval,
)
from palign.evaluation.pages.style import STYLE
from palign.evaluation.pages.svg import UNPRINTABLE, has_matplotlib, isolated

__all__ = ["render_page"]

GROUPS_SHOWN = 50  # rows of a table; report.json has them all
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NO_FIGURES = (
    "The figures are missing: matplotlib is not installed here. Every number is in the tables; "
    "pip install 'palign[report]' and writing the report again brings the figures."
)


def render_page(data: ReportRecord) -> str:
    """The whole page."""
    pictures = report_pictures(data)
    title = text(data["title"])
    body = [f"<h1>{title}</h1>", *_opening(data), *_made_of(data), *_meaning(data)]
    if not pictures and not has_matplotlib():
        body.append(f"<p>{text(NO_FIGURES)}</p>")
    reading, notes = reading_and_notes(data["notes"])
    if reading:
        lines = "".join(f"<div>{text(line)}</div>" for line in reading)
        body.append(f'<details class="reading"><summary>How the rows were read</summary>{lines}</details>')
    body += [f"<p>{text(note)}</p>" for note in notes]
    body += _likes(data["figures"].get("likes", []))
    if opens_with_regrets(data):
        body += ["<section><h2>Regret</h2>", *_pictures(p for p in pictures if p.section == "regret")]
        body += [*_regrets(data), "</section>"]
    for section in data["sections"]:
        body += [f"<section><h2>{text(section_title(section, data))}</h2>"]
        body += _pictures(p for p in pictures if p.section == section["name"])
        body += [*_section(section, data["settings"]), "</section>"]
    if any(p.section == "" for p in pictures) or data["extra"]:
        body += ["<section><h2>The run</h2>", *_pictures(p for p in pictures if p.section == ""), *_extra(data)]
        body += ["</section>"]
    made = f"palign {text(data['palign_version'])}, report schema {data['schema_version']}, {text(data['date'])}"
    body.append(f"<footer>{made}.</footer>")
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{title}</title><style>{STYLE}</style>"
    )
    inside = "\n".join(body)
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body><main>\n{inside}\n</main></body>\n</html>\n'


def text(value: object) -> str:
    """Any text as it stands, on one line and never markup; it cannot turn the writing direction of its neighbours."""
    plain = UNPRINTABLE.sub(" ", str(value).encode("utf-8", "replace").decode())
    return html.escape(isolated(plain.strip()))


def _opening(data: ReportRecord) -> list[str]:
    """Who is worst served, and by how much: a sentence, the same as large numbers, then what else there is to say."""
    lines, warnings, others = (
        [f'<p class="conclusion">{text(sentence)}</p>' for sentence in data["conclusion"]],
        [],
        [],
    )
    regrets = regret_sentences(data)
    if regrets:
        lines += [*(f'<p class="lead">{text(sentence)}</p>' for sentence in regrets), *_cards(regret_cards(data))]
    for place, section in enumerate(data["sections"], start=len(regrets)):
        for model in ordered_models(section):
            sentences = opening_sentences(section, model, data)
            warnings += [sentence for sentence in sentences if sentence.startswith("Warning:")]
            sentences = [sentence for sentence in sentences if not sentence.startswith("Warning:")]
            if model["model"] != section["main"]:
                others += sentences
                continue
            lead = "lead" if place == 0 else "lead second"
            lines += [f'<p class="{lead}">{text(sentences[0])}</p>', *_facts(section, data["settings"])]
            lines += [f"<p>{text(sentence)}</p>" for sentence in sentences[1:]]
    lines += [
        f'<p class="warning" role="note"><strong>Warning:</strong> {text(sentence[8:])}</p>' for sentence in warnings
    ]
    if others:
        lines += ["<details><summary>Every other model in a sentence</summary><ul>"]
        lines += [*(f"<li>{text(sentence)}</li>" for sentence in others), "</ul></details>"]
    return lines


def _facts(section: SectionRecord, settings: SettingsRecord) -> list[str]:
    """The main model's worst and best group, the gap and the mean, as a list of cards; then a row per grouping."""
    model, people = ordered_models(section)[0], [settings["annotator_column"]]
    metric = main_metric(section["name"], model["metrics"])
    grouped, opening = (
        [frame for frame in model["frames"] if frame["groups"] != people],
        opening_frame(model, settings),
    )
    stats = (opening or model["frames"][0])["metrics"][metric]
    chance = opening is not None and is_chance(stats["gap"])
    everybody = ("Everybody", span(stats["overall"]["value"]), interval_text(stats["overall"]), "")
    if opening is None:
        tail = (
            f"Worst-served {100 * settings['cvar_alpha']:g} % of people",
            span(stats["cvar"]["value"]),
            f"mean {metric}, {interval_text(stats['cvar'])}",
            "worst",
        )
        return [
            *_cards([tail, everybody]),
            *(_glance(model, grouped, metric, settings["opens_with"]) if grouped else []),
        ]
    kind, cards = " × ".join(opening["groups"]), [everybody]
    if stats["worst"]["group"] is not None and stats["worst"]["group"] != stats["best"]["group"]:
        cards = [
            ("▼ Worst served", stats["worst"]["group"], _of_group(stats["worst"], metric, kind), "worst"),
            ("Best served", stats["best"]["group"], _of_group(stats["best"], metric, kind), ""),
            ("Gap between them", span(stats["gap"]["value"]), interval_text(stats["gap"]), ""),
            everybody,
        ]
        if chance:  # nobody is surely served worse
            gap = f"{interval_text(stats['gap'])}; chance alone can show as much"
            cards = [everybody, (f"Gap by {kind}", span(stats["gap"]["value"]), gap, "")]
    return [*_cards(cards), *(_glance(model, grouped, metric, settings["opens_with"]) if len(grouped) > 1 else [])]


def _of_group(estimate: WorstRecord | BestRecord, metric: str, kind: str) -> str:
    people = f"{estimate['n_annotators']:,} annotator{'' if estimate['n_annotators'] == 1 else 's'}"
    ends = f" ({interval_text(estimate)})" if "low" in estimate else ""
    return f"{metric} {span(estimate['value'])}{ends}; by {kind}, {people}"


def _cards(cards: Iterable[tuple[str, str, str, str]]) -> list[str]:
    rows = [
        f'<div class="{kind}"><dt>{text(head)}</dt><dd><span class="big">{text(big)}</span>'
        f'<span class="small">{text(small)}</span></dd></div>'
        for head, big, small, kind in cards
    ]
    return ['<dl class="facts">', *rows, "</dl>"]


def _glance(model: ModelRecord, frames: Sequence[FrameRecord], metric: str, opens_with: list[str]) -> list[str]:
    rows = []
    order = sorted(frames, key=lambda f: (f["groups"] != opens_with, is_chance(f["metrics"][metric]["gap"])))
    for frame in order:
        stats = frame["metrics"][metric]
        cells = [text(stats["worst"]["group"] or "–"), _cell(stats["worst"]), text(stats["best"]["group"] or "–")]
        rows.append(([text(" × ".join(frame["groups"])), *cells, _cell(stats["best"]), _cell(stats["gap"])], False))
    head = ["by", "worst served", metric, "best served", metric, "gap"]
    return _table(f"{model['model']}, every way of grouping", head, rows, text_columns=(1, 3))


def _meaning(data: ReportRecord) -> list[str]:
    """What the numbers are and what they do not show; our text, the only one whose Markdown marks are kept."""
    lines = [f"<p>{_marked(paragraph)}</p>" for paragraph in WHAT_THE_NUMBERS_ARE]
    return ['<div class="about">', *lines, f"<p>{text(' '.join(computed_sentences(data)))}</p>", "</div>"]


def _made_of(data: ReportRecord) -> list[str]:
    """What the report is made of: data, what was trained on and judged, backbone, date."""
    rows = [f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in data["facts"].items()]
    return ['<dl class="made">', *rows, "</dl>"]


def _likes(likes: Sequence[LikesRecord]) -> list[str]:
    """What each type likes, a row for each."""
    if not likes:
        return []
    rows = []
    for record in likes:
        most, least = ("<br>".join(text(f"“{part}”") for part in record[side]) for side in ("most", "least"))
        words = [text(", ".join(record[key]) or "none stands out") for key in ("words", "other_words")]
        rows.append(([text(record["type"]), most, least, *words], False))
    head = [
        "type",
        "texts it likes most",
        "texts it likes least",
        "words of what it likes",
        "words of what it does not",
    ]
    table = _table("Each type against the others", head, rows, text_columns=(1, 2, 3, 4))
    return ["<section><h2>What each type likes</h2>", *table, "</section>"]


def _marked(paragraph: str) -> str:
    strong = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(paragraph, quote=False))
    return re.sub(r"`(.+?)`", r"<code>\1</code>", strong)


def _pictures(pictures: Iterable[Picture]) -> list[str]:
    drawn = [
        f"<figure><h3>{text(p.title)}</h3>{p.svg}<figcaption>{text(p.caption)}</figcaption></figure>" for p in pictures
    ]
    return ['<div class="pictures">', *drawn, "</div>"] if drawn else []


def _section(section: SectionRecord, settings: SettingsRecord) -> list[str]:
    models, people = ordered_models(section), [settings["annotator_column"]]
    lines = ["<h3>Side by side</h3>", *_side_by_side(models, settings)]
    for groups in [g for g in settings["groups"] if g != people]:
        lines.append(f"<h3>By {text(' × '.join(groups))}</h3>")
        first = main_metric(section["name"], models[0]["metrics"])
        lines += _by_group(section, models, groups, first)
        others = [name for name in dict.fromkeys(n for m in models for n in m["metrics"]) if name != first]
        if others:
            lines += [f"<details><summary>{text(', '.join(others))} by {text(' × '.join(groups))}</summary>"]
            lines += [line for metric in others for line in _by_group(section, models, groups, metric)]
            lines += ["</details>"]
    lines += ["<h3>By annotator</h3>", *_by_annotator(models, people)]
    notes = [*section["notes"]]
    for model in models:
        for frame in model["frames"]:
            notes += [f"{model['model']}, by {' × '.join(frame['groups'])}: {note}" for note in frame["notes"]]
    return lines + ([f"<p>{text(note)}</p>" for note in notes])


def _regrets(data: ReportRecord) -> list[str]:
    """What a regret is, and that of every type under every policy."""
    head, rows = regret_table(data)
    cells = [([text(cell) for cell in row], False) for row, _ in rows]
    return [f"<p>{text(MEANING)}</p>", *_table("Regret of every policy", head, cells, text_columns=(2,))]


def _side_by_side(models: Sequence[ModelRecord], settings: SettingsRecord) -> list[str]:
    rows = []
    for model in models:
        for metric, stats in overall_frame(model, settings)["metrics"].items():
            cells = [_cell(stats["overall"]), text(stats["worst"]["group"] or "–"), _cell(stats["worst"])]
            cells += [_cell(stats["gap"]), span(stats["ratio"]["value"])]
            rows.append(([text(model["model"]), text(metric), *cells], False))
    return _table(
        "Every model",
        ["model", "metric", "overall", "worst group", "its value", "gap", "ratio"],
        rows,
        text_columns=(1, 3),
    )


def _by_group(section: SectionRecord, models: Sequence[ModelRecord], groups: list[str], metric: str) -> list[str]:
    """A row per group, a column per model, and the paired differences."""
    by_model = {m["model"]: frame_of(m, groups)["metrics"][metric] for m in models if metric in m["metrics"]}
    values = {name: {row["group"]: row for row in stats["by_group"]} for name, stats in by_model.items()}
    pairs = {
        f"{c['second']} − {c['first']}": {row["group"]: row for row in c["rows"] if row["stat"] == "by_group"}
        for c in section["comparisons"]
        if (c["groups"], c["metric"]) == (groups, metric)
    }
    first = next(iter(by_model.values()))
    worst, chance, first_rows = first["worst"]["group"], is_chance(first["gap"]), first["by_group"]
    every = list(dict.fromkeys(group for by_group in values.values() for group in by_group))
    rows = []
    for group in every[:GROUPS_SHOWN]:
        known = [by_group[group] for by_group in values.values() if group in by_group]
        counts = [
            "/".join(dict.fromkeys(f"{row[name]:,}" for row in known)) for name in ("n_annotators", "n_judgements")
        ]
        cells = [_cell(by_group.get(group)) for by_group in values.values()]
        cells += [_cell(by_group.get(group), signed=True) for by_group in pairs.values()]
        is_worst = group == worst and sum(row["is_ranked"] for row in first_rows) > 1 and not chance
        unranked = known and not known[0]["is_ranked"] and known[0]["value"] is not None
        name = f"{'▼ ' if is_worst else ''}{text(group)}"
        name += '<span class="range">not ranked</span>' if unranked else ""
        rows.append(([name, *cells, *counts], is_worst))
    head = [" × ".join(groups), *values, *pairs, "annotators", "judgements"]
    lines = _table(f"{metric} by {' × '.join(groups)}", head, rows)
    if len(every) > GROUPS_SHOWN:
        lines.append(f"<p>{len(every) - GROUPS_SHOWN:,} further groups are in report.json.</p>")
    return lines


def _by_annotator(models: Sequence[ModelRecord], people: list[str]) -> list[str]:
    rows = []
    for model in models:
        for metric, stats in frame_of(model, people)["metrics"].items():
            shares = [span(stats["quantiles"][share]) for share in ("0.1", "0.5", "0.9")]
            counts = [f"{model['n_annotators']:,}", f"{model['n_judgements']:,}"]
            cells = [text(metric), *counts, *shares, *(_cell(stats[stat]) for stat in ("cvar", "gini"))]
            rows.append(([text(model["model"]), *cells], False))
    head = ["model", "metric", "annotators", "judgements", "10 % have less than", "median", "90 % have less than"]
    head += ["mean of the worst tenth", "Gini"]
    return [*_table("Over people", head, rows, text_columns=(1,)), f"<p>{text(IF_ALIKE)}</p>"] if rows else []


def _extra(data: ReportRecord) -> list[str]:
    rows = [
        ([text(name), text(span(value) if isinstance(value, float) else value)], False)
        for name, value in data["extra"].items()
    ]
    return _table("Figures of the run", ["figure", "value"], rows) if rows else []


def _cell(estimate: AnyEstimate | None, *, signed: bool = False) -> str:
    """A number and, below it, its interval and what chance alone would show."""
    number, interval = value_and_interval(estimate, signed=signed)
    alike = (estimate or {}).get("if_alike")
    below = [interval, "" if alike is None else f"if alike {span(alike)}"]
    return number + "".join(f'<span class="range">{line}</span>' for line in below if line)


def _table(
    caption: str, head: Sequence[object], rows: Sequence[tuple[list[str], bool]], *, text_columns: Sequence[int] = ()
) -> list[str]:
    """A table in a box that scrolls by itself; cells are HTML already, the caption and the head are not.

    Rows come with whether they are the worst; `text_columns` are the columns that hold no numbers.
    """
    lines = [f'<div class="scroll" role="region" tabindex="0" aria-label="{text(caption)}"><table>']
    kinds = [' class="text"' if place in text_columns else "" for place in range(len(head))]
    names = "".join(f'<th scope="col"{kind}>{_breakable(name)}</th>' for kind, name in zip(kinds, head, strict=True))
    lines += [f"<caption>{text(caption)}</caption>", f"<thead><tr>{names}</tr></thead><tbody>"]
    for cells, is_worst in rows:
        inside = "".join(f"<td{kind}>{cell}</td>" for kind, cell in zip(kinds[1:], cells[1:], strict=True))
        opening = '<tr class="worst">' if is_worst else "<tr>"
        lines.append(f'{opening}<th scope="row">{cells[0]}</th>{inside}</tr>')
    return [*lines, "</tbody></table></div>"]


def _breakable(name: object) -> str:
    """A name that may go on in the next line after a slash or an underscore."""
    return re.sub(r"([/_])", r"\1<wbr>", text(name))
