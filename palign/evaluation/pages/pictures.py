"""Which pictures a report has, their descriptions in text, and their SVG; all out of the content of report.json."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from palign.evaluation.pages.figures import DrawnModel, draw_groups, draw_history, draw_models, draw_people
from palign.evaluation.pages.image_likes import draw_image_likes
from palign.evaluation.pages.regrets import opens_with_regrets
from palign.evaluation.pages.report_keys import (
    ImageLikesRecord,
    LikesRecord,
    ModelRecord,
    RegretsRecord,
    ReportRecord,
    SectionRecord,
    SettingsRecord,
    TrainingRecord,
    TypeSpaceRecord,
)
from palign.evaluation.pages.sentences import (
    alike_text,
    frame_of,
    is_chance,
    main_metric,
    opening_frame,
    span,
    with_interval,
)
from palign.evaluation.pages.svg import drawing, has_matplotlib, shorten, to_svg
from palign.evaluation.pages.type_pictures import draw_regrets, draw_type_space
from palign.models.files.card import decimals

__all__ = ["Picture", "report_pictures"]

GROUPS_DRAWN = 14
MODELS_DRAWN = 3


@dataclass(frozen=True)
class Picture:
    """One figure: where it belongs (a section's name, or "" for the run), its title, what it shows, its SVG.

    The SVG describes what it shows, number by number, for those who do not see it.
    """

    section: str
    title: str
    caption: str
    svg: str


def report_pictures(data: ReportRecord) -> list[Picture]:
    """Every figure that there is something to draw for; none without matplotlib."""
    if not has_matplotlib():
        return []
    pictures = []
    with drawing():
        for number, (section, title, caption, description, figure) in enumerate(_figures(data)):
            svg = to_svg(figure, f"figure{number}", title, f"{caption} {description}".strip())
            pictures.append(Picture(section, title, caption, svg))
    return pictures


def _figures(data: ReportRecord) -> Iterator[tuple[str, str, str, str, Any]]:
    people = [data["settings"]["annotator_column"]]
    for section in data["sections"]:
        models = ordered_models(section)
        metric = main_metric(section["name"], models[0]["metrics"])
        opening = data["settings"]["opens_with"]
        for frame in sorted(models[0]["frames"], key=lambda frame: frame["groups"] != opening):
            if frame["groups"] != people and len(frame["metrics"][metric]["by_group"]) > 1:
                yield (section["name"], *_groups(models, frame["groups"], metric))
        if len(models) > 1:
            yield (section["name"], *_models(models, metric, data["settings"]))
        values = _values_of_people(models, metric, people)
        if values:
            yield (section["name"], *_people(values, models[0], metric, people))
    extra = data.get("figures") or {}
    if extra.get("type_space"):
        yield ("", *_types(extra["type_space"], extra.get("likes", [])))
    if extra.get("image_likes"):
        yield ("", *_image_likes(extra["image_likes"]))
    if extra.get("regrets"):
        yield ("regret" if opens_with_regrets(data) else "", *_regrets(extra["regrets"]))
    for history in extra.get("training", []):
        yield ("", *_training(history))


def ordered_models(section: SectionRecord) -> list[ModelRecord]:
    """The model the page is about, then what it is compared with, then the others, latest first."""
    rank = {section["main"]: 0} | {name: 1 + i for i, name in enumerate(section["baselines"])}
    rest = {model["model"]: -place for place, model in enumerate(section["models"])}
    return sorted(section["models"], key=lambda m: (rank.get(m["model"], 99), rest[m["model"]]))


def _groups(models: list[ModelRecord], groups: list[str], metric: str) -> tuple[str, str, str, Any]:
    drawn = [m for m in models if metric in m["metrics"]][:MODELS_DRAWN]
    stats = frame_of(drawn[0], groups)["metrics"][metric]
    sign = 1 if stats["higher_is_better"] else -1
    rows = sorted(
        stats["by_group"],
        key=lambda row: (row["value"] is None, not row["is_ranked"], sign * (row["value"] or 0.0)),
    )
    kind, worst = " × ".join(groups), "" if is_chance(stats["gap"]) else stats["worst"]["group"] or ""
    unranked = {row["group"] for row in rows if not row["is_ranked"] and row["value"] is not None}
    left_out, hidden = rows[GROUPS_DRAWN:], sum(row["value"] is None for row in rows[GROUPS_DRAWN:])
    rows = rows[:GROUPS_DRAWN]
    by_model = {
        m["model"]: {row["group"]: row for row in frame_of(m, groups)["metrics"][metric]["by_group"]} for m in drawn
    }
    figure = draw_groups(
        [row["group"] for row in rows], by_model, metric=metric, overall=stats["overall"]["value"], worst=worst,
        unranked=unranked,
    )  # fmt: skip
    description = "; ".join(
        f"{shorten(row['group'], 40)} {with_interval(row)}" for row in rows if row["value"] is not None
    )
    caption = f"Lowest served first, by {drawn[0]['model']}. Bars are intervals; the dashed line is everybody's mean."
    if is_chance(stats["gap"]):
        caption += " Chance alone can show differences of this size between groups that are served alike."
    if len(left_out) > hidden:
        caption += f" {len(left_out) - hidden} better-served groups are left out here; report.json has all."
    if hidden:
        caption += f" {hidden} groups with too few people are left out here."
    if len(models) > len(drawn):
        caption += f" {len(models) - len(drawn)} further models are in the tables."
    return f"{metric} by {kind}", caption, f"{description}.", figure


def _models(models: list[ModelRecord], metric: str, settings: SettingsRecord) -> tuple[str, str, str, Any]:
    rows: list[DrawnModel] = []
    tail = f"worst {100 * settings['cvar_alpha']:g} % of people"
    kind = " × ".join(settings["opens_with"])
    for model in models:
        if metric not in model["metrics"]:
            continue
        opening = opening_frame(model, settings)
        stats = (opening or model["frames"][0])["metrics"][metric]
        worst = stats["worst"] if opening else stats["cvar"]
        group_name = worst.get("group") or "–" if opening else tail
        rows.append({"model": model["model"], "overall": stats["overall"], "worst": worst, "group": group_name})
    description = "; ".join(
        f"{shorten(row['model'], 40)}: overall {span(row['overall']['value'])}, {shorten(row['group'], 40)} "
        f"{span(row['worst']['value'])}"
        for row in rows
    )
    title = f"Worst-served against everybody, by {kind}"
    caption = f"{metric} of every model: everybody's mean, and that of the group it serves worst."
    return title, caption, f"{description}.", draw_models(rows, metric=metric)


def _values_of_people(models: list[ModelRecord], metric: str, people: list[str]) -> dict[str, list[float]]:
    values_by_model = {}
    for model in models[:4]:
        if metric in model["metrics"]:
            values = [row["value"] for row in frame_of(model, people)["metrics"][metric]["by_group"]]
            values = [value for value in values if value is not None]
            if len(values) > 1:
                values_by_model[model["model"]] = values
    return values_by_model


def _people(
    values: dict[str, list[float]], main: ModelRecord, metric: str, people: list[str]
) -> tuple[str, str, str, Any]:
    stats = frame_of(main, people)["metrics"][metric]
    half, tenth = stats["quantiles"]["0.5"], stats["quantiles"]["0.1" if stats["higher_is_better"] else "0.9"]
    side = "less" if stats["higher_is_better"] else "more"
    caption = (
        f"Each person's own mean {metric} under {main['model']}: half of {main['n_annotators']:,} people have {side} "
        f"than {span(half)}, one in ten {side} than {span(tenth)}; the mean of that tenth is "
        f"{with_interval(stats['cvar'])}{alike_text(stats['cvar'])}: people with few judgements spread by chance."
    )
    return (
        "How many people are served how well",
        caption,
        "",
        draw_people(values, metric=metric, higher_is_better=stats["higher_is_better"]),
    )


def _types(space: TypeSpaceRecord, likes: list[LikesRecord]) -> tuple[str, str, str, Any]:
    by = f"marked by {space['group_column']}" if space["group_column"] else "marked by their largest weight"
    names, n_types = space["names"], len(space["names"])
    placement = {
        2: "positions from left to right are exact, heights mean nothing",
        3: "positions are exact but for a small shift that keeps equal people apart",
    }.get(
        n_types, "a person is drawn to each corner by their weight of it, so between far corners the middle is shared"
    )
    caption = (
        f"{len(space['annotators']):,} annotators between the discovered types, {by}; a corner (+) is somebody of one "
        f"type only; {placement}. {'Beside a name: what it likes against the others. ' if likes else ''}"
        "Types are patterns of answers, not identities."
    )
    return (
        "Annotators among the types",
        caption,
        "",
        draw_type_space(
            space["weights"], space["names"], space["groups"], likes=[_liked(name, likes) for name in names]
        ),
    )


def _liked(name: str, likes: list[LikesRecord]) -> str:
    """What a type likes in a few words: those that tell it from others, or the text it likes most."""
    for record in likes:
        if record["type"] == name:
            return ", ".join(record["words"][:3]) or (f"“{record['most'][0]}”" if record["most"] else "")
    return ""


def _image_likes(records: list[ImageLikesRecord]) -> tuple[str, str, str, Any]:
    lines = []
    for record in records:
        most, least = (", ".join(shorten(shown["name"], 40) for shown in record[side]) for side in ("most", "least"))
        lines.append(f"{shorten(record['type'], 40)} likes {most} most and {least} least")
    caption = (
        "The images that each type likes more than the others do, and less: reward against the mean of all types."
    )
    return "What each type likes", caption, f"{'; '.join(lines)}.", draw_image_likes(records)


def _regrets(record: RegretsRecord) -> tuple[str, str, str, Any]:
    columns = zip(record["policies"], zip(*record["values"], strict=True), strict=True)
    worst = {name: max(zip(values, record["types"], strict=True)) for name, values in columns}
    largest = max(value for value, _ in worst.values())
    places = decimals(largest, 3)
    description = "; ".join(
        f"{shorten(name, 40)} {value:.{places}f} ({shorten(kind, 40)})" for name, (value, kind) in worst.items()
    )
    caption = (
        "What each type (columns) loses under each policy (rows, the least worst regret first) against a policy of "
        f"its own, in units of reward (the darkest: {largest:.{places}f}); the largest of a row is framed. "
        "Percentages: the game's weights of policies at the right, of types at the top."
    )
    return "Regret of every type under every policy", caption, f"Worst regret: {description}.", draw_regrets(record)


def _training(history: TrainingRecord) -> tuple[str, str, str, Any]:
    lines = {name: history[name] for name in ("reward", "gold") if name in history}
    changes = ", ".join(f"{name} from {span(v[0])} to {span(v[-1])}" for name, v in lines.items())
    judged = (
        " Where the reward goes on rising and gold utility falls, the reward is being exploited."
        if "gold" in lines
        else " No independent judge is there: a reward that rises is no proof that anybody is better served."
    )
    paid = f"; KL at the end {span(history['kl'][-1])} nats" if "kl" in history else ""
    caption = f"Updates {history['step'][0]} to {history['step'][-1]}: {changes}{paid}.{judged}"
    return f"As {history['name']} was trained", caption, "", draw_history(history["step"], lines, history.get("kl"))
