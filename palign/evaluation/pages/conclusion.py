"""What a report concludes, before any table: on what it was judged, and whether serving people one by one paid."""

from palign.evaluation.pages.figures import COIN
from palign.evaluation.pages.regrets import opens_with_regrets
from palign.evaluation.pages.report_keys import (
    DifferenceRecord,
    Estimate,
    ModelRecord,
    ReportRecord,
    SectionRecord,
    SettingsRecord,
)
from palign.evaluation.pages.sentences import overall_frame

__all__ = ["conclusion"]

NO_BETTER = "no better than"
UNSURE = ", as far as these rows show"


def conclusion(data: ReportRecord) -> list[str]:
    """One paragraph on the main reward model, from the content of report.json; not yet escaped.

    Its first sentence says on what the model was judged and how it stands to a coin and to each baseline; one sentence
    for each baseline with the differences follows. Nothing for policies alone, and where regrets chose a policy: those
    have other conclusions.
    """
    if opens_with_regrets(data):
        return []
    section = next((part for part in data["sections"] if part["name"] == "reward models"), None)
    if section is None:
        return []
    main = next(model for model in section["models"] if model["model"] == section["main"])
    if "accuracy" not in main["metrics"]:
        return []
    level = f"{100 * data['settings']['level']:g} % interval"
    stats = overall_frame(main, data["settings"])["metrics"]["accuracy"]["overall"]
    differences = _differences(section, main["model"], data["settings"]["opens_with"])
    verdicts = [*_coin(stats), *_verdicts(differences), *data["settings"]["remarks"]]
    first = _judged(main, stats, level, data["settings"]["judgements"])
    first += f": {'; '.join(verdicts)}." if verdicts else "."
    shown = [f"Against {name}: {_shown(*pair, level)}." for name, pair in differences.items()]
    poor = [text for name in differences for text in _below_a_coin(section, name, data["settings"])]
    return [" ".join([first, *shown, *poor])]


def _below_a_coin(section: SectionRecord, name: str, settings: SettingsRecord) -> list[str]:
    """That a baseline orders fewer pairs than a coin, so that what is gained over it is not all a gain."""
    baseline = next(model for model in section["models"] if model["model"] == name)
    accuracy = overall_frame(baseline, settings)["metrics"]["accuracy"]["overall"]["value"]
    if accuracy is None or accuracy >= COIN:
        return []
    return [
        f"{name} itself orders {accuracy:.3f} of the pairs, fewer than a coin ({COIN:.3f}): compare with the coin "
        "as well."
    ]


def _judged(model: ModelRecord, accuracy: Estimate, level: str, judgements: str) -> str:
    judged = f"{model['n_judgements']:,} {judgements} of {model['n_annotators']:,} annotators"
    text = f"Judged by {judged}, {model['model']} orders {accuracy['value']:.3f} of the pairs as they do"
    return text + (f" ({level} {accuracy['low']:.3f} to {accuracy['high']:.3f})" if _has_interval(accuracy) else "")


def _coin(accuracy: Estimate) -> list[str]:
    """That the model is no better than a coin, or worse; nothing where it is better."""
    if not _has_interval(accuracy) or accuracy["low"] > COIN:
        return []
    return [f"no better than a coin{UNSURE}" if accuracy["high"] >= COIN else "worse than a coin"]


def _has_interval(value: Estimate) -> bool:
    low, high = value.get("low"), value.get("high")
    return low is not None and high is not None and low == low and high == high


Pair = tuple[DifferenceRecord, DifferenceRecord | None]  # of accuracy and, where it is there, of log-likelihood


def _differences(section: SectionRecord, main: str, opens_with: list[str]) -> dict[str, Pair]:
    """The main model less each baseline that it is compared with; intervals as in the sentences that follow."""
    if main in section["baselines"]:
        return {}
    pairs = {}
    for baseline in section["baselines"]:
        accuracy, nats = (
            _difference(section, baseline, main, metric, opens_with) for metric in ("accuracy", "log_likelihood")
        )
        if accuracy is not None:
            pairs[baseline] = accuracy, nats
    return pairs


def _verdicts(differences: dict[str, Pair]) -> list[str]:
    """ "better than pooled", baselines of one verdict together."""
    names: dict[str, list[str]] = {}
    for name, pair in differences.items():
        names.setdefault(_verdict(*pair), []).append(name)
    return [f"{verdict} {' and '.join(of)}{UNSURE if verdict == NO_BETTER else ''}" for verdict, of in names.items()]


def _verdict(accuracy: DifferenceRecord, nats: DifferenceRecord | None) -> str:
    gains, losses = ([d for d in (accuracy, nats) if d is not None and test(d)] for test in (_is_gain, _is_loss))
    if losses and gains:
        return "better by one measure and worse by the other than"
    if losses:
        return "worse than"
    return "better than" if gains else NO_BETTER


def _shown(accuracy: DifferenceRecord, nats: DifferenceRecord | None, level: str) -> str:
    """Differences with their intervals."""
    text = (
        f"{100 * accuracy['difference']:+.1f} points of accuracy ({level} {100 * accuracy['low']:+.1f} to "
        f"{100 * accuracy['high']:+.1f}, annotators resampled)"
    )
    if nats is not None:
        text += f", {nats['difference']:+.3f} nats a judgement ({nats['low']:+.3f} to {nats['high']:+.3f})"
    return text


def _is_gain(difference: DifferenceRecord) -> bool:
    return difference["low"] > 0


def _is_loss(difference: DifferenceRecord) -> bool:
    return difference["high"] < 0


def _difference(
    section: SectionRecord, first: str, second: str, metric: str, opens_with: list[str]
) -> DifferenceRecord | None:
    """The paired difference over everybody, second less first, people resampled within the opening groups if it was
    taken by them; None where there is none.
    """
    for record in sorted(section["comparisons"], key=lambda comparison: comparison["groups"] != opens_with):
        if (record["first"], record["second"], record["metric"]) == (first, second, metric):
            return next((row for row in record["rows"] if row["stat"] == "overall"), None)
    return None
