"""The sentences of a report: who is worst served and by how much, and what such numbers do not show."""

from collections.abc import Sequence

from palign.evaluation.pages.regrets import BY_VOTES, VOTES, opens_with_regrets, regret_sentences
from palign.evaluation.pages.report_keys import (
    AnyEstimate,
    DifferenceRecord,
    Estimate,
    FrameRecord,
    GroupRecord,
    LikesRecord,
    ModelRecord,
    ReportRecord,
    SectionRecord,
    SettingsRecord,
    SpreadEstimate,
)

__all__ = [
    "IF_ALIKE",
    "WHAT_THE_NUMBERS_ARE",
    "alike_text",
    "computed_sentences",
    "frame_of",
    "headline_sentences",
    "interval_text",
    "is_chance",
    "likes_sentence",
    "main_metric",
    "model_sentences",
    "opening_frame",
    "overall_frame",
    "opening_sentences",
    "reading_and_notes",
    "section_title",
    "span",
    "value_and_interval",
    "with_interval",
]

IF_ALIKE = (
    "If alike: what chance alone would show. The same judgements are dealt out anew among all people, and everybody "
    "keeps their number of them. Only what goes beyond that is unequal service."
)
WHAT_THE_NUMBERS_ARE = (
    "**What these numbers are.** Each is a mean over judgements within one group of people. Unless the first sentence "
    "calls them held out, the model may have seen them in training, and every number is too good. "
    "`accuracy` is the share of ordered pairs that the score puts in the person's own order; a tie counts one half, "
    "and a coin has one half. "
    "`log_likelihood` is that of the person's ranking, in nats (natural logarithm of a probability); of a pair a coin "
    "has −0.693, and nearer to 0 is better. `reward` is what the reward model gives; for a policy "
    "it is what was optimised, not a proof of quality. `gold` is utility by an independent judge. `kl` says how far a "
    "policy has moved from the reference, in nats. The gap is the best group minus the worst.",
    "**How sure they are.** Intervals come from resampling people within groups, since one person's judgements hang "
    "together. The worst of several groups looks worse than it is, because it was picked for being lowest. Its "
    "interval is corrected for that, so it differs from the interval in the group's own row. The interval of a gap "
    "holds the true gaps that could have given the one seen. With many groups the gap seen may lie above it: part of "
    "it is then chance.",
    "**What they do not show.** That a gap is small on these groups says nothing of groups that were not declared, "
    "nor of people who are not in the data. A wide or missing interval means that there are too few people to know, "
    "not that all is well. Equal accuracy, equal reward and equal benefit cannot in general all hold at once, and "
    "which of them is owed is not a question of measurement. A discovered type is a pattern of answers that the "
    "model found useful. It is not an identity, and nobody should be told that it is theirs.",
)
LEAST_PEOPLE = 5  # of a group that a warning is given for
PREFERRED = {"reward models": ("accuracy", "log_likelihood", "reward"), "policies": ("gold", "reward", "kl")}


def main_metric(section: str, metrics: Sequence[str]) -> str:
    """What a model is judged by first, of the metrics that it has."""
    return next(name for name in (*PREFERRED[section], *metrics) if name in metrics)


def frame_of(model: ModelRecord, groups: list[str]) -> FrameRecord:
    """The model's frame by these groups."""
    return next(frame for frame in model["frames"] if frame["groups"] == groups)


def opening_frame(model: ModelRecord, settings: SettingsRecord) -> FrameRecord | None:
    """The model's frame by the groups that the report opens with; None where it opens with single people."""
    groups = settings["opens_with"]
    if groups == [settings["annotator_column"]]:
        return None
    return next(frame for frame in model["frames"] if frame["groups"] == groups)


def overall_frame(model: ModelRecord, settings: SettingsRecord) -> FrameRecord:
    """The frame that numbers over everybody are read from: the opening one, the first where there is none."""
    return opening_frame(model, settings) or model["frames"][0]


def headline_sentences(data: ReportRecord) -> list[str]:
    """Regrets where a policy was chosen by them, one or two sentences a model, the main one first; not yet escaped."""
    return regret_sentences(data) + [
        sentence
        for section in data["sections"]
        for model in sorted(section["models"], key=lambda model: model["model"] != section["main"])
        for sentence in opening_sentences(section, model, data)
    ]


def opening_sentences(section: SectionRecord, model: ModelRecord, data: ReportRecord) -> list[str]:
    """:func:`model_sentences`, the first of which says that it is of votes, where regrets stand before it."""
    first, *others = model_sentences(section, model, data["settings"])
    is_votes = section["name"] == "reward models" and opens_with_regrets(data)
    return [f"{BY_VOTES}{first}" if is_votes else first, *others]


def computed_sentences(data: ReportRecord) -> list[str]:
    """How the numbers were computed: what counts, which direction is good, intervals, which groups are ranked."""
    settings, directions = data["settings"], {}
    for section in data["sections"]:
        for model in section["models"]:
            directions |= {name: stats["higher_is_better"] for name, stats in model["frames"][0]["metrics"].items()}
    unit = "judgement" if settings["weights"] == "judgements" else "annotator"
    more, less = ([name for name, up in directions.items() if up == wanted] for wanted in (True, False))
    sides = [f"{word} is better of {', '.join(names)}" for word, names in (("more", more), ("less", less)) if names]
    direction = "; ".join(sides)
    sentences = [
        f"Every {unit} counts the same. {direction[:1].upper()}{direction[1:]}. "
        f"Intervals are {100 * settings['level']:g} %, from {settings['n_resamples']:,} resamples of annotators "
        f"within groups (seed {settings['seed']})."
    ]
    if settings["min_ranked_size"] > 1 and len(settings["groups"]) > 1:
        sentences.append(
            f"Groups of fewer than {settings['min_ranked_size']} annotators are listed and not ranked. Nor is "
            "(missing), which holds the rows without a value."
        )
    if settings["min_group_size"] > 1:
        sentences.append(f"Numbers of groups of fewer than {settings['min_group_size']} annotators are not shown.")
    return sentences


def reading_and_notes(notes: list[str]) -> tuple[list[str], list[str]]:
    """The lines that say how rows were read, and the other notes."""
    reading = [note for note in notes if note.startswith(("read ", "  "))]
    return reading, [note for note in notes if note not in reading]


def likes_sentence(likes: LikesRecord) -> str:
    """What a type likes, in one or two sentences."""
    most, least = (", ".join(f"“{text}”" for text in likes[side]) for side in ("most", "least"))
    sentence = f"{likes['type']} against the others: likes {most} most and {least} least."
    if likes["words"] or likes["other_words"]:
        words, others = (", ".join(likes[key]) or "none stands out" for key in ("words", "other_words"))
        sentence += f" Words of what it likes: {words}; of what it does not: {others}."
    return sentence


def section_title(section: SectionRecord, data: ReportRecord) -> str:
    """What stands above it: policies that regrets chose from are judged by votes there, as reward models are."""
    is_votes = section["name"] == "reward models" and opens_with_regrets(data)
    return VOTES if is_votes else section["name"].capitalize()


def model_sentences(section: SectionRecord, model: ModelRecord, settings: SettingsRecord) -> list[str]:
    """Whom it serves worst; what it gained over its baselines; warnings, which begin with "Warning:"."""
    metric = main_metric(section["name"], model["metrics"])
    sentences = [_of_model(model, metric, settings, is_policy=section["name"] == "policies")]
    return [
        *sentences,
        *_differences(section, model["model"], metric, settings["opens_with"]),
        *_of_hacking(section, model["model"]),
    ]


def _of_model(model: ModelRecord, metric: str, settings: SettingsRecord, *, is_policy: bool) -> str:
    grouped = opening_frame(model, settings)
    level = f"{100 * settings['level']:g} % interval"
    if grouped is None:
        stats = model["frames"][0]["metrics"][metric]
        share = f"{100 * settings['cvar_alpha']:g} %"
        return (
            f"{model['model']}: {metric} is {with_interval(stats['overall'], level)} overall; over the worst-served "
            f"{share} of {model['n_annotators']} "
            f"annotators{' (' + format(model['n_judgements'], ',') + ' completions)' if is_policy else ''} it is "
            f"{with_interval(stats['cvar'])}{alike_text(stats['cvar'])}."
        )
    stats, kind = grouped["metrics"][metric], " × ".join(grouped["groups"])
    worst, best = stats["worst"], stats["best"]
    overall = f"{metric} is {with_interval(stats['overall'], level)} overall"
    if worst["group"] is None:
        return f"{model['model']}: {overall}; {_none_ranked(stats['by_group'], kind, settings)}."
    ranked = [row["value"] for row in stats["by_group"] if row["is_ranked"]]
    if len(ranked) > 1 and worst["group"] == best["group"]:
        same = f"all {len(ranked)} groups by {kind} that can be ranked have the same {metric}"
        return f"{model['model']}: {overall}; {same}."
    if len(ranked) < 2:
        return f"{model['model']}: {overall}; only one group by {kind} can be ranked, so there is no gap to speak of."
    side = "below" if stats["higher_is_better"] else "above"
    people = f"{_people(worst['n_annotators'])}{_of_ties(ranked.count(worst['value']) - 1)}"
    gap = f"{span(stats['gap']['value'])} {side}"
    if is_chance(stats["gap"]):
        return (
            f"{model['model']}: {overall}. By {kind} no group is surely served worse than another: "
            f"{worst['group']} ({people}) has {with_interval(worst, level)}, {gap} {best['group']} (gap "
            f"{interval_text(stats['gap'])}), and chance alone can show a gap of this size."
        )
    return (
        f"{model['model']}: worst served is {kind} {worst['group']} ({people}), whose {metric} is "
        f"{with_interval(worst, level)}, {gap} the best-served, {kind} {best['group']} (gap "
        f"{interval_text(stats['gap'])}); {overall}.{_of_chance(stats['gap'])}"
    )


def _none_ranked(rows: list[GroupRecord], kind: str, settings: SettingsRecord) -> str:
    """Why no group can be the worst."""
    if all(row["value"] is None or row["value"] != row["value"] for row in rows):
        return f"no group by {kind} has enough annotators to be shown"
    return (
        f"no group by {kind} is ranked: a rank takes a value of {kind} and {settings['min_ranked_size']} annotators "
        "(min_ranked_size)"
    )


def is_chance(gap: Estimate) -> bool:
    """Whether groups that are served equally well could have shown the gap."""
    return gap["low"] is not None and gap["low"] <= 0


def _of_ties(others: int) -> str:
    return "" if others < 1 else f"; {others} other group{' is' if others == 1 else 's are'} served as badly"


def _of_chance(gap: Estimate) -> str:
    """What the interval of a gap says of chance, where it says something."""
    if gap["low"] is None or gap["low"] != gap["low"]:
        return ""
    if gap["value"] > gap["high"]:
        return " The extremes of many groups are partly chance: the true gap is likely smaller than the one seen."
    return ""


def _differences(section: SectionRecord, name: str, metric: str, groups: list[str]) -> list[str]:
    """What it gained over each model it is compared with; one sentence each, by the opening groups where there are."""
    sentences = {}
    for comparison in sorted(section["comparisons"], key=lambda comparison: comparison["groups"] != groups):
        first = comparison["first"]
        if (comparison["second"], comparison["metric"]) != (name, metric) or first in sentences:
            continue
        rows = {row["stat"]: row for row in comparison["rows"]}
        sentences[first] = (
            f"{name} against {first} on the same judgements: {metric} {with_interval(rows['overall'], signed=True)} "
            f"overall{_of_worst(rows['worst'], comparison['groups'])}."
        )
    return list(sentences.values())


def _of_worst(row: DifferenceRecord, groups: list[str]) -> str:
    if not groups:
        return ""
    return f", {with_interval(row, signed=True)} for the worst-served group of each (by {' × '.join(groups)})"


def _of_hacking(section: SectionRecord, name: str) -> list[str]:
    """A warning where the reward of some people's group rose and its gold utility fell: 0 is in neither interval."""
    rows: dict[tuple[str, str, str], DifferenceRecord] = {}
    for comparison in section["comparisons"]:
        if comparison["second"] == name and comparison["first"] == section["baselines"][0]:
            kind = " × ".join(comparison["groups"])
            rows |= {
                (kind, row["group"], comparison["metric"]): row
                for row in comparison["rows"]
                if row["stat"] == "by_group"
            }
    warnings = []
    for (kind, group, metric), gold in rows.items():
        reward = rows.get((kind, group, "reward"))
        if metric != "gold" or reward is None:
            continue
        if (
            _above(reward["low"], 0.0)
            and _above(0.0, gold["high"])
            and min(reward["n_annotators"], gold["n_annotators"]) >= LEAST_PEOPLE
        ):
            warnings.append(
                f"Warning: for {kind} {group} the reward rose by {span(reward['difference'])} and gold utility fell "
                f"by {span(-gold['difference'])} under {name}: the reward is being exploited, not the person served."
            )
    return warnings


def _above(first: float | None, second: float | None) -> bool:
    """Whether the first is larger, as far as three decimals show."""
    return first is not None and second is not None and first - second >= 0.0005


def _people(count: int) -> str:
    return f"{count} annotator{'' if count == 1 else 's'}"


def alike_text(estimate: SpreadEstimate) -> str:
    """What chance alone would show, to follow a statistic over people; nothing where it is not known."""
    known = estimate.get("if_alike")
    return "" if known is None or known != known else f", and would be {span(known)} if all were served alike"


def span(value: float | None, *, signed: bool = False) -> str:
    """A number to three decimals, or "–" for one that is not known."""
    if value is None or value != value:
        return "–"
    text = f"{value:+.3f}" if signed else f"{value:.3f}"
    return text.replace("-0.000", "0.000").replace("+0.000", "0.000")


def interval_text(estimate: AnyEstimate, *, signed: bool = False) -> str:
    """ "0.801 to 0.874", or "no interval" where there is none."""
    low, high = estimate.get("low"), estimate.get("high")
    if low is None or high is None or low != low or high != high:
        return "no interval"
    return f"{span(low, signed=signed)} to {span(high, signed=signed)}"


def with_interval(estimate: AnyEstimate, name: str = "", *, signed: bool = False) -> str:
    """ "0.840 (90 % interval 0.801 to 0.874)"; the value is under ``value`` or ``difference``."""
    value = estimate["difference"] if "difference" in estimate else estimate["value"]
    interval = interval_text(estimate, signed=signed)
    return f"{span(value, signed=signed)} ({f'{name} ' if name and interval != 'no interval' else ''}{interval})"


def value_and_interval(estimate: AnyEstimate | None, *, signed: bool = False) -> tuple[str, str]:
    """A value or a difference and, where there is one, its interval: ("0.842", "0.801 to 0.874")."""
    if estimate is None:
        return "–", ""
    value = estimate["difference"] if "difference" in estimate else estimate["value"]
    interval = interval_text(estimate, signed=signed)
    return span(value, signed=signed), "" if interval == "no interval" else interval
