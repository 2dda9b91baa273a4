"""A report with everything in it that can be drawn, and names that try to be more than text."""

from pathlib import Path

import numpy as np
import pandas as pd

from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.report import Report, write_report

EVIL = "<script>alert(1)</script>"
COUNTRIES = [
    EVIL,
    "$x^2$ and $\\frac{1}{2}$",
    "日本語のとても長いグループ名なのでどこかで切れるはずです",
    "المملكة العربية السعودية",
    "United Kingdom of Great Britain and Northern Ireland",
    "NL",
    None,
]


def person_names(n_people: int) -> np.ndarray:
    return np.array([EVIL, "李小龍", "a & b", *(f"w{i}" for i in range(3, n_people))], dtype=object)


def judgements(model: str, right: tuple[float, ...], n_people: int = 60, n_rows: int = 10) -> pd.DataFrame:
    """Rows of people of three types, who are served as `right` says, give or take chance."""
    rng = np.random.default_rng(len(model))
    people = np.repeat(np.arange(n_people), n_rows)
    kind = people % 3
    table = {
        "model": model, "annotator_id": person_names(n_people)[people], "row": np.arange(len(people)),
        "type": np.array(["cheerful", "careful", "thorough"])[kind],
        "country": np.array(COUNTRIES, dtype=object)[people % 7],
        "age": np.array(["18–29", "30–49", "50+"])[people % 11 % 3],
    }  # fmt: skip
    return pd.DataFrame({**table, "accuracy": (rng.random(len(people)) < np.array(right)[kind]).astype(float),
                         "log_likelihood": -rng.random(len(people))})  # fmt: skip


def completions(model: str, gold: tuple[float, ...], reward: float, kl: float) -> pd.DataFrame:
    """What policies wrote, judged."""
    table = judgements(model, (0.5, 0.5, 0.5), n_people=30, n_rows=4).drop(columns=["accuracy", "log_likelihood"])
    noise = np.random.default_rng(1).normal(0, 0.3, len(table))
    kind = table["type"].map({"cheerful": 0, "careful": 1, "thorough": 2}).to_numpy()
    return table.assign(gold=np.array(gold)[kind] + noise, reward=reward + noise, kl=kl + 0.1 * noise)


def figure_data(n_types: int = 3, n_people: int = 60) -> FigureData:
    rng = np.random.default_rng(0)
    weights = rng.dirichlet(np.full(n_types, 0.4), n_people)
    types = [EVIL, *(f"type_{k}" for k in range(1, n_types))]
    policies = [*types, "ensemble", "distill", "reference"]
    regrets = rng.random((n_types, len(policies)))
    regrets[np.arange(n_types), np.arange(n_types)] = 0
    step = np.arange(40)
    history = pd.DataFrame({"step": step, "objective/reward": np.sqrt(step), "objective/gold": np.sin(step / 9),
                            "objective/kl": step / 20})  # fmt: skip
    return FigureData(
        type_weights=dict(zip(person_names(n_people), weights, strict=True)), type_names=types,
        regrets={"types": types, "policies": policies, "values": regrets.tolist(), "chosen": "distill",
                 "type_weights": [1 / n_types] * n_types, "policy_weights": [1 / n_types] * n_types + [None] * 3},
        histories={f"prompt {EVIL}": history},
    )  # fmt: skip


def full_report(folder: Path, **options: object) -> Report:
    """Two reward models and two policies, three groupings and every figure."""
    tables = [judgements("pooled", (0.85, 0.5, 0.6)), judgements(f"pal {EVIL}", (0.9, 0.8, 0.7))]
    tables += [completions("reference", (0.0, 0.0, 0.1), 0.0, 0.0), completions("prompt", (1.0, 1.5, -0.5), 1.0, 2.0)]
    settings = {"group_columns": ["type", "country", ("country", "age"), "age"], "figures": figure_data(),
                "extra": {EVIL: EVIL, "seconds": 1.5}, "notes": [f"A note {EVIL}."], "title": f"Report {EVIL}",
                "n_resamples": 60}  # fmt: skip
    return write_report(tables, output_dir=folder, **(settings | options))


def small_report(folder: Path, **options: object) -> Report:
    """One reward model, its people's types, one declared group; quickly made."""
    settings = {"group_columns": ["type"], "figures": figure_data(n_people=30), "n_resamples": 20}
    table = judgements(f"pal {EVIL}", (0.9, 0.8, 0.7), n_people=30, n_rows=4).drop(columns=["country", "age"])
    return write_report(table.drop(columns="log_likelihood"), output_dir=folder, **(settings | options))
