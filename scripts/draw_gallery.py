"""The pictures of docs/gallery.md: those of a report on made-up people, each as a file in `docs/pictures/`.

    python scripts/draw_gallery.py

Numbers are drawn with a fixed seed and mean nothing; the forms are those of every report.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.pictures import report_pictures
from palign.evaluation.report import write_report

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
TYPES = ("short", "warm", "reasons", "examples")
WORDS = (["just", "yes", "done"], ["sorry", "hear", "friend"], ["because", "so", "hence"], ["example", "say", "like"])
COUNTRIES = ("Brazil", "India", "Kenya", "Poland", "Iceland")
N_PEOPLE, N_ROWS, SEED = 120, 20, 0
NAMES = {
    "accuracy by country": "groups", "Worst-served against everybody, by country": "models",
    "How many people are served how well": "people", "Annotators among the types": "types",
    "Regret of every type under every policy": "regrets", "As prompt was trained": "training",
}  # fmt: skip


def table() -> pd.DataFrame:
    """Judgements of two models by people of five countries, one of which has two people."""
    rng, parts = np.random.default_rng(SEED), []
    people = np.repeat(np.arange(N_PEOPLE), N_ROWS)
    country = np.where(people < 2, 4, people % 4)
    luck = rng.random(len(people))
    for model, right in {"pooled": (0.74, 0.7, 0.56, 0.71, 0.3), "pal": (0.86, 0.84, 0.75, 0.85, 0.4)}.items():
        accuracy = (luck < np.array(right)[country]).astype(float)
        parts.append(pd.DataFrame({
            "model": model, "annotator_id": [f"w{i}" for i in people], "row": np.arange(len(people)),
            "country": np.array(COUNTRIES)[country], "accuracy": accuracy,
        }))  # fmt: skip
    return pd.concat(parts)


def figures() -> FigureData:
    """People among four types, regrets of a few policies, and a training that ends in an exploited reward."""
    rng, step = np.random.default_rng(SEED), np.arange(60)
    weights = rng.dirichlet(np.full(len(TYPES), 0.35), N_PEOPLE)
    likes = [{"type": name, "most": [], "least": [], "words": words, "other_words": []}
             for name, words in zip(TYPES, WORDS, strict=True)]  # fmt: skip
    policies = [*TYPES, "one for all", "fair"]
    regrets = [
        [0, 0.9, 0.7, 0.8, 0.55, 0.31], [1.0, 0, 0.6, 0.7, 0.5, 0.33], [0.8, 0.7, 0, 0.3, 0.2, 0.25],
        [0.9, 0.8, 0.4, 0, 0.3, 0.27],
    ]  # fmt: skip
    reward = 2 * (1 - np.exp(-step / 18)) + rng.normal(0, 0.08, 60)
    gold = 1.4 * np.sin(np.minimum(step / 28, 2.2)) + rng.normal(0, 0.08, 60)
    history = pd.DataFrame({"step": step, "objective/reward": reward, "objective/gold": gold,
                            "objective/kl": step / 12})  # fmt: skip
    return FigureData(
        dict(zip([f"w{i}" for i in range(N_PEOPLE)], weights, strict=True)), TYPES, likes=likes,
        regrets={"types": list(TYPES), "policies": policies, "values": regrets, "chosen": "fair",
                 "type_weights": [0.3, 0.3, 0.2, 0.2], "policy_weights": [0.3, 0.3, 0.25, 0.15, None, None]},
        histories={"prompt": history},
    )  # fmt: skip


def main() -> None:
    """Write them."""
    PICTURES.mkdir(exist_ok=True)
    with TemporaryDirectory() as folder:
        report = write_report(
            table(), output_dir=folder, group_columns=["country"], figures=figures(), metrics=["accuracy"]
        )
    for picture in report_pictures(report.data):
        if picture.title in NAMES:
            path = PICTURES / f"{NAMES[picture.title]}.svg"
            path.write_text(picture.svg, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main()
