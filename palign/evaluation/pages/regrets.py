"""What a report says of regrets: how much the type that a fair policy serves worst loses, and the table of all."""

from palign.evaluation.pages.report_keys import Estimate, RegretsRecord, ReportRecord
from palign.models.files.card import decimals

__all__ = ["BY_VOTES", "MEANING", "VOTES", "opens_with_regrets", "regret_cards", "regret_sentences", "regret_table"]

VOTES = "Held-out votes, by each policy's own reward"  # what a policy's accuracy is of, in a report on regrets
BY_VOTES = "By held-out votes, "
MEANING = (
    "Regret of a type under a policy: the reward that the type expects of a policy of its own less what it expects of "
    "this one, in units of that reward. Policies with the least worst regret stand first."
)


def opens_with_regrets(data: ReportRecord) -> bool:
    """Whether the content of report.json is about a policy that regrets chose: these have intervals then."""
    record = (data.get("figures") or {}).get("regrets") or {}
    return bool(record.get("worst")) and record.get("chosen") in record["policies"]


def regret_sentences(data: ReportRecord) -> list[str]:
    """How much the type loses that the chosen policy serves worst, and how that compares; none without a choice."""
    if not opens_with_regrets(data):
        return []
    record = data["figures"]["regrets"]
    chosen, values = record["policies"].index(record["chosen"]), [ends["value"] for ends in record["worst"]]
    sentence = (
        f"{record['chosen']}: the type that loses most is {record['types'][record['worst_type'][chosen]]}, by "
        f"{_ranged(record, chosen, name=True)} against a policy of its own, in units of its reward"
    )
    better = [name for name, value in zip(record["policies"], values, strict=True) if value < values[chosen]]
    if not better:
        return [f"{sentence}: the least worst regret of {len(values)} policies measured on the same fresh prompts."]
    return [
        f"{sentence}; of {len(values)} policies measured on the same fresh prompts {len(better)} "
        f"{'has' if len(better) == 1 else 'have'} a smaller worst regret: {', '.join(better)}."
    ]


def regret_cards(data: ReportRecord) -> list[tuple[str, str, str, str]]:
    """Head, large text, small text and kind of what stands large on the page: chosen, pooled DPO, reference."""
    record = data["figures"]["regrets"]
    shown = [name for name in (record["chosen"], "pooled", "reference") if name in record["policies"]]
    cards = []
    for name in dict.fromkeys(shown):
        place = record["policies"].index(name)
        kind, value = record["types"][record["worst_type"][place]], record["worst"][place]["value"]
        if name == record["chosen"]:
            cards.append(("▼ Loses most", kind, f"{_ranged(record, place)} under {name}", "worst"))
            continue
        large = f"{value:.{_places(record)}f}"
        ends = _ranged(record, place).removeprefix(f"{large} ").strip("()")
        cards.append((f"Worst regret of {name}", large, f"{ends}; of {kind}", ""))
    return cards


def regret_table(data: ReportRecord) -> tuple[list[str], list[tuple[list[str], bool]]]:
    """Head, and rows with whether each is of the chosen policy; plain text, the least worst regret first."""
    record, places = data["figures"]["regrets"], _places(data["figures"]["regrets"])
    head = ["policy", f"worst regret ({_level(record)})", "of", *record["types"], "mean regret", "KL, nats"]
    judges = record.get("judges") or {}
    head += [f"worst regret by {name}" for name in judges]
    values = [ends["value"] for ends in record["worst"]]
    rows = []
    for place in sorted(range(len(values)), key=values.__getitem__):
        name, by_type = record["policies"][place], [row[place] for row in record["values"]]
        is_chosen = name == record["chosen"]
        cells = [f"{name} (chosen)" if is_chosen else name, _ranged(record, place)]
        cells += [record["types"][record["worst_type"][place]], *(f"{value:z.{places}f}" for value in by_type)]
        cells += [f"{record['mean'][place]:.{places}f}", f"{record['kl'][place]:z.3f}"]
        rows.append(([*cells, *(_ends(ends[place]) for ends in judges.values())], is_chosen))
    return head, rows


def _ends(ends: Estimate) -> str:
    return f"{ends['value']:.3f} ({ends['low']:.3f} to {ends['high']:.3f})"


def _places(record: RegretsRecord) -> int:
    return decimals(max(ends["value"] for ends in record["worst"]), 3)


def _level(record: RegretsRecord) -> str:
    return f"{100 * record['level']:g} % interval"


def _ranged(record: RegretsRecord, place: int, *, name: bool = False) -> str:
    value, low, high = (f"{record['worst'][place][end]:.{_places(record)}f}" for end in ("value", "low", "high"))
    return f"{value} ({_level(record) + ' ' if name else ''}{low} to {high})"
