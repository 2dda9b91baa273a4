"""What is shown of a fair policy beside game.json: an independent judge, answers side by side, figures of the run."""

import html
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from palign.data.preferences import Preferences
from palign.data.turns import question_of
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.report_keys import RegretsRecord
from palign.evaluation.scoring import score_table
from palign.evaluation.statistics.voting import borda, copeland
from palign.functional.regret_estimates import bootstrap_means
from palign.models.files.game_keys import GameRecord, GameSettings
from palign.models.files.mixture import MixtureRecord

__all__ = [
    "add_gold", "fair_figures", "fair_samples", "fair_summary", "room_note", "vote_note", "vote_table",
]  # fmt: skip

Texts = Mapping[str, Sequence[Sequence[str]]]
UNITED = {"votes": "votes, share of wins", "pal": "PAL, its reward"}
LEVEL = 0.95  # of the intervals in a fair policy's table


def add_gold(
    record: GameRecord,
    texts: Texts,
    types: Sequence[str],
    gold: Callable[[str, int], float],
    *,
    optimum: float | None = None,
) -> None:
    """Put into each row of the table what a judge independent of the types' rewards says of the policy's answers.

    Args:
        record: as `FairPolicyTrainer.train` gives it; rows get `gold`, see `GoldRecord`.
        texts: by policy, completions of each prompt.
        types: names of the types' policies, whose answers a mixture gives in its weights.
        gold: (completion, type number) → utility.
        optimum: the most that one policy can give the type it serves worst, where that is known.
    """
    per_prompt = {name: _utilities(answers, gold, len(types)) for name, answers in texts.items()}
    of_types = np.stack([per_prompt[name] for name in types], -1)
    per_prompt |= {
        row["name"]: of_types @ np.asarray(row["weights"]) for row in record["table"] if row["weights"] is not None
    }
    best = of_types.mean(0).diagonal()
    draws = {name: _worst_draws(values, record["settings"]) for name, values in per_prompt.items()}
    for row in record["table"]:
        values = per_prompt[row["name"]].mean(0)
        row["gold"] = {
            "by_type": values.tolist(), "worst": float(values.min()), "max_regret": float((best - values).max()),
            "mean": float(np.asarray(record["mixing_weights"]) @ values), "chosen_more": None,
        }  # fmt: skip
        if record["chosen"] is not None:
            more = per_prompt[record["chosen"]].mean(0).min() - values.min()
            low, high = np.quantile(draws[record["chosen"]] - draws[row["name"]], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
            row["gold"]["chosen_more"] = {"value": float(more), "low": float(low), "high": float(high)}
    _say_of_gold(record, optimum)


def _utilities(answers: Sequence[Sequence[str]], gold: Callable[[str, int], float], n_types: int) -> np.ndarray:
    """(n_prompts, n_types) mean over the completions of a prompt."""
    return np.array([np.mean([[gold(t, k) for k in range(n_types)] for t in of], axis=0) for of in answers])


def _worst_draws(per_prompt: np.ndarray, settings: GameSettings) -> np.ndarray:
    """(n_bootstrap,) utility of the type served worst, on resampled prompts: the same draws for every policy."""
    means = bootstrap_means(torch.from_numpy(per_prompt), n_draws=settings["n_bootstrap"], seed=settings["seed"])
    return means.min(-1).values.numpy()


def _say_of_gold(record: GameRecord, optimum: float | None) -> None:
    rows = {row["name"]: row for row in record["table"]}
    chosen, reference = rows.get(record["chosen"]), rows["reference"]["gold"]["worst"]
    if chosen is None:
        return
    worst = chosen["gold"]["worst"]
    if worst < reference:
        record["notes"].append(
            f"By the independent judge the type that {chosen['name']} serves worst is served no better than by the "
            f"reference ({worst:.3f} against {reference:.3f}): the types' own rewards overrate it. Look at the "
            "samples; a smaller max_kl keeps nearer the reference."
        )
    if optimum is not None and record["room"] is not None:
        share = (worst - reference) / (optimum - reference)
        record["room"] |= {"optimum": optimum, "gold_single": share}
        record["notes"].append(
            f"By the independent judge the most that one policy can give the type it serves worst is {optimum:.3f} "
            f"(exact); the reference gives {reference:.3f} and {chosen['name']} {worst:.3f}: {share:.0%} of the way."
        )


def room_note(record: GameRecord) -> str:
    """Whether these tastes leave room for one policy that serves all, in one sentence."""
    room = record["room"]
    if room is None:
        return (
            "Whether one policy can serve all types cannot be said: a type gains nothing over the reference by a "
            "policy of its own."
        )
    gives = (
        f"of what every type gains over the reference by a policy of its own, the best single policy here, "
        f"{room['policy']}, gives each type at least {room['single']:.0%}, and the best lottery over the types' "
        f"policies {room['lottery']:.0%}"
    )
    return {
        "shared": f"These tastes leave room for one policy that serves all: {gives}.",
        "opposed": f"These tastes look opposed, with little room for one policy that serves all: {gives}.",
    }.get(room["looks"], f"These tastes leave some room for one policy that serves all: {gives}.")


def fair_figures(record: GameRecord, mixture: MixtureRecord) -> FigureData:
    """Regrets of all policies with the game's weights, and people among the types.

    Args:
        record: as `FairPolicyTrainer.train` gives it.
        mixture: who is of which type.
    """
    rows, game = record["table"], record["game"]
    shares = dict(zip(record["types"], game["policy_weights"]["value"], strict=True))
    weight_of = {
        f"type_{k}": share for k, share in enumerate(shares.values())
    }  # a type's policy is called by its number
    regrets: RegretsRecord = {
        "types": record["types"], "policies": [row["name"] for row in rows],
        "values": np.array([row["regrets"] for row in rows]).T.tolist(), "type_weights": game["type_weights"],
        "policy_weights": [weight_of.get(row["name"], shares.get(row["name"])) for row in rows],
        "chosen": record["chosen"],
        "worst": [row["max_regret"] for row in rows], "worst_type": [row["worst_type"] for row in rows],
        "mean": [row["mean_regret"]["value"] for row in rows], "kl": [row["kl"]["value"] for row in rows],
        "level": LEVEL,
        "judges": {
            UNITED.get(name, name): [judge["max_regret"][row["name"]] for row in rows]
            for name, judge in record.get("judges", {}).items() if name != "types"
        },
    }  # fmt: skip
    weights = dict(zip(mixture.annotators.ids, mixture.responsibilities, strict=True))
    return FigureData(type_weights=weights, type_names=record["types"], regrets=regrets)


def vote_note(record: GameRecord) -> str:
    """Whom a vote of the types would elect, by Borda and by Copeland, and what that costs whoever it costs most.

    Each type is a ballot over the single policies, by its regret of each, and counts by its share of people.
    """
    rows = [row for row in record["table"] if row["weights"] is None]
    utilities = -np.array([row["regrets"] for row in rows]).T
    said = []
    for name, rule in (("Borda", borda), ("Copeland", copeland)):
        row = rows[int(rule(utilities, np.array(record["mixing_weights"])).argmax())]
        worst = record["types"][int(np.argmax(row["regrets"]))]
        said.append(f"by {name} {row['name']}, under which {worst} loses {max(row['regrets']):.3f}")
    chosen = next((row for row in rows if row["name"] == record["chosen"]), None)
    ours = "" if chosen is None else f"; {chosen['name']}, chosen by regret, costs no type more than "
    ours += "" if chosen is None else f"{max(chosen['regrets']):.3f}"
    return f"A vote of the types, each by its share of people, would elect {said[0]}, and {said[1]}{ours}."


def fair_samples(record: GameRecord, texts: Texts, prompts: Sequence[Any], tokenizer: Any, *, n_prompts: int) -> str:
    """A Markdown table: the chosen policy, the reference, pooled DPO and every type answer fresh prompts."""
    shown = [name for name in (record["chosen"], "reference", "pooled") if name in texts]
    shown += [name for name in texts if name.startswith("type_")]
    labels = dict(zip([n for n in shown if n.startswith("type_")], record["types"], strict=True))
    heads = [name if labels.get(name, name) == name else f"{name} ({labels[name]})" for name in shown]
    lines = [f"| prompt | {' | '.join(heads)} |", "|" + "---|" * (len(shown) + 1)]
    for place, prompt in enumerate(prompts[:n_prompts]):
        cells = [question_of(prompt), *(texts[name][place][0] for name in shown)]
        lines.append(f"| {' | '.join(_cell(text) for text in cells)} |")
    return "\n".join(lines) + "\n"


def fair_summary(record: GameRecord) -> dict[str, float]:
    """The figures of a run, flat: by policy its regrets, KL, votes and gold; the game; seconds of each step."""
    rows = {row["name"]: row for row in record["table"]}
    game = record["game"]
    summary = {"n_types": len(record["types"]), "game/value": game["value"]["value"], "game/gap": game["gap"]}
    summary |= {"kl_budget": record["kl_budget"]}
    room = record["room"] or {}
    summary |= {f"room/{key}": room[key] for key in ("single", "lottery", "optimum", "gold_single") if key in room}
    summary |= {f"game/weight_type_{k}": w for k, w in enumerate(game["policy_weights"]["value"])}
    if record["chosen"] is not None:
        rows = rows | {"chosen": rows[record["chosen"]]}
    for name, row in rows.items():
        summary |= {f"{name}/{key}": row[key]["value"] for key in ("max_regret", "mean_regret", "kl")}
        summary[f"{name}/max_relative_regret"] = row["max_relative_regret"]
        votes = row["votes"] or {}
        summary[f"{name}/votes/worst_accuracy"] = votes.get("worst_accuracy")
        of_votes = votes.get("more_than_pooled") or {}
        summary |= {f"{name}/votes/more_than_pooled/{end}": of_votes[end] for end in of_votes if end != "high"}
        if row.get("gold"):
            summary |= {f"{name}/gold/{key}": row["gold"][key] for key in ("worst", "max_regret", "mean")}
            more = row["gold"]["chosen_more"] or {}
            summary |= {f"{name}/gold/chosen_more/{end}": more[end] for end in more if end != "high"}
        if row["less_than_pooled"] is not None and name != "pooled":
            summary |= {f"{name}/less_than_pooled/{end}": row["less_than_pooled"][end] for end in ("value", "low")}
    for judge, table in record.get("judges", {}).items():
        worst = {name: table["max_regret"][row["name"]]["value"] for name, row in rows.items()}
        summary |= {f"{name}/by_{judge}/max_regret": value for name, value in worst.items()}
    summary |= {f"{name}_seconds": seconds for name, seconds in record["seconds"].items()}
    return {name: float(value) for name, value in summary.items() if value is not None}


def vote_table(
    record: GameRecord, scores: Mapping[str, np.ndarray], rows: Preferences, types: Mapping[str, object]
) -> pd.DataFrame:
    """Held-out judgements under each policy's implicit reward, for the fairness report; those of types left out."""
    kept = {row["name"] for row in record["table"] if row["kind"] != "type"}
    return pd.concat(
        [score_table(values, rows, model=name, types=types) for name, values in scores.items() if name in kept],
        ignore_index=True,
    )


def _cell(text: str) -> str:
    """One line that no markup in it can leave."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "\\`")
