"""What a report concludes, before any table: on what it was judged, and whether serving people one by one paid."""

from typing import Any

from palign.evaluation.report_regrets import opens_with_regrets

__all__ = ["conclusion"]

COIN = 0.5  # accuracy of a pair by chance


def conclusion(data: dict[str, Any]) -> list[str]:
    """Sentences on the main reward model, from the content of report.json; not yet escaped.

    Nothing for policies alone, and where regrets chose a policy: those have conclusions of their own.
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
    sentences = [_judged(main, level), *_against(section, main["model"], level)]
    return [" ".join(sentences)]


def _judged(model: dict[str, Any], level: str) -> str:
    own = model["frames"][0]["metrics"]["accuracy"]["overall"]
    judgements, people = f"{model['n_judgements']:,} judgements", f"{model['n_annotators']:,} annotators"
    text = f"Judged by {judgements} of {people}, {model['model']} orders {own['value']:.3f} of the pairs as they do"
    low, high = own.get("low"), own.get("high")
    if low is None or high is None or low != low or high != high:
        return f"{text}."
    text += f" ({level} {low:.3f} to {high:.3f})"
    if low <= COIN <= high:
        return f"{text}: no better than a coin, as far as these rows show."
    return f"{text}: worse than a coin." if high < COIN else f"{text}."


def _against(section: dict[str, Any], main: str, level: str) -> list[str]:
    """Against each baseline in accuracy and, where it is there, in log-likelihood."""
    if main in section["baselines"]:
        return []
    sentences = []
    for baseline in section["baselines"]:
        accuracy = _difference(section, baseline, main, "accuracy")
        if accuracy is None:
            continue
        nats = _difference(section, baseline, main, "log_likelihood")
        sentences.append(f"{_verdict(baseline, accuracy, nats)}: {_shown(accuracy, nats, level)}.")
    return sentences


def _verdict(baseline: str, accuracy: dict[str, float], nats: dict[str, float] | None) -> str:
    gains, losses = ([d for d in (accuracy, nats) if d is not None and test(d)] for test in (_is_gain, _is_loss))
    if losses and gains:
        return f"It gains and loses against {baseline}"
    if losses:
        return f"It is worse than {baseline}"
    if _is_gain(accuracy) or (nats is not None and _is_gain(nats)):
        return f"It is better than {baseline}"
    return f"It is no better than {baseline}, as far as these rows show"


def _shown(accuracy: dict[str, float], nats: dict[str, float] | None, level: str) -> str:
    """Differences with their intervals."""
    text = (
        f"{100 * accuracy['difference']:+.1f} points of accuracy ({level} {100 * accuracy['low']:+.1f} to "
        f"{100 * accuracy['high']:+.1f}, annotators resampled)"
    )
    if nats is not None:
        text += f", {nats['difference']:+.3f} nats a judgement ({nats['low']:+.3f} to {nats['high']:+.3f})"
    return text


def _is_gain(found: dict[str, float]) -> bool:
    return found["low"] > 0


def _is_loss(found: dict[str, float]) -> bool:
    return found["high"] < 0


def _difference(section: dict[str, Any], first: str, second: str, metric: str) -> dict[str, float] | None:
    """The paired difference over everybody, second less first; None where there is none."""
    for record in section["comparisons"]:
        if (record["first"], record["second"], record["metric"]) == (first, second, metric):
            return next((row for row in record["rows"] if row["stat"] == "overall"), None)
    return None
