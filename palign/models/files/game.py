"""A fair policy on disk beside its adapter: game.json, and a model card with the fairness section."""

import json
from pathlib import Path

from palign.models.files.adapter_files import portable_base
from palign.models.files.card import FAIR, base_note, decimals, named, render, shown, table
from palign.models.files.game_keys import Ends, GameRecord
from palign.reading import number_in, read_json
from palign.writing import write_whole

__all__ = ["GAME", "SMALLEST_BETA", "fair_card", "fair_table", "load_game", "save_game"]

GAME, CARD = "game.json", "README.md"
SMALLEST_BETA = 1e-9


def save_game(record: GameRecord, folder: str | Path, *, lies_at: str | Path | None = None) -> None:
    """Write game.json and README.md; each file is complete or as it was before.

    `lies_at`: where the folder will be moved to; the way to the base is seen from there.
    """
    folder = Path(folder)
    record = {**record, "base_model": portable_base(record.get("base_model"), lies_at or folder)}
    folder.mkdir(parents=True, exist_ok=True)
    game_json = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
    for name, text in ((GAME, game_json + "\n"), (CARD, fair_card(record))):
        write_whole(folder / name, text)


def load_game(folder: str | Path) -> GameRecord:
    """Read what `save_game` wrote; ValueError where it is not there."""
    path = Path(folder) / GAME
    if not path.is_file():
        raise ValueError(f"{str(folder)!r} holds no {GAME}. Give a folder that FairPolicyTrainer wrote.")
    record = read_json(path, dict)
    number_in(record, "beta", path, least=SMALLEST_BETA)
    if record.get("format") != 1:
        raise ValueError(f"{path} has format {record.get('format')!r}; this version reads 1.")
    return record


def fair_table(record: GameRecord) -> str:
    """All policies side by side, least worst regret first, as Markdown."""
    rows = sorted(record["table"], key=lambda row: row["max_regret"]["value"])
    has_gold = any(row.get("gold") for row in rows)
    head = ["policy", "worst regret", "of", "mean regret", "relative", "KL", "votes, worst type"]
    head += ["gold, worst type"] if has_gold else []
    judges = {name: judge for name, judge in record.get("judges", {}).items() if name != "types"}
    head += [f"worst regret by {name}" for name in judges]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    places = decimals(rows[-1]["max_regret"]["value"], 3)
    for row in rows:
        name = f"**{row['name']}**" if row["name"] == record["chosen"] else row["name"]
        name += "" if row["is_within_budget"] else " (drifted)"
        accuracy = (row["votes"] or {}).get("worst_accuracy")
        cells = [
            name,
            _ranged(row["max_regret"], places),
            shown(record["types"][row["worst_type"]]),
            _ranged(row["mean_regret"], places),
            _plain(row["max_relative_regret"]),
            _plain(row["kl"]["value"]),
            _plain(accuracy),
        ]
        cells += [_plain((row.get("gold") or {}).get("worst"))] if has_gold else []
        cells += [_ranged(judge["max_regret"][row["name"]], 3) for judge in judges.values()]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _ranged(ends: Ends, places: int) -> str:
    return f"{ends['value']:.{places}f} [{ends['low']:.{places}f}, {ends['high']:.{places}f}]"


def _plain(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def fair_card(record: GameRecord) -> str:
    """The README.md of a fair policy, for people."""
    game, chosen = record["game"], record["chosen"]
    row = next((row for row in record["table"] if row["name"] == chosen), None)
    lost = row["regrets"] if row else [None] * len(record["types"])
    places = decimals(max(row["max_regret"]["value"] for row in record["table"]), 3)
    weights = zip(*(game["policy_weights"][end] for end in ("value", "low", "high")), strict=True)
    types = (
        (shown(name), f"{share:.0%}", f"{w:.2f} [{low:.2f}, {high:.2f}]", f"{dual:.2f}", _plain(regret, places))
        for name, share, (w, low, high), dual, regret in zip(
            record["types"], record["mixing_weights"], weights, game["type_weights"], lost, strict=True
        )
    )
    notes = "".join(f"- {shown(note)}\n" for note in record["notes"])
    return render(
        FAIR,
        base=named(record["base_model"]),
        base_note=base_note(record["base_model"]),
        n_types=len(record["types"]),
        chosen=chosen or "the ensemble",
        types=table(types),
        table=fair_table(record),
        value=_ranged(game["value"], places),
        budget=record["kl_budget"],
        n_eval=record["n_eval_prompts"],
        n_prompts=record["n_prompts"],
        gap=game["gap"],
        notes=f"\n{notes}" if notes else "",
    )
