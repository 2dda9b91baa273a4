#!/usr/bin/env python3
"""Votes of real people: does `palign reward` find the camps that there are, and lose nothing where there are none?

    python scripts/measure_polis.py FOLDER [--conversations land-bank brexit] [--seeds 0 1 2] [--n_prototypes auto]

FOLDER holds NAME.statements.csv and NAME.votes.csv.gz, as `scripts/prepare_polis.py` reads them. A voter's statements
are split before any pair is drawn; of a fifth of the voters nothing is trained on: the newcomers, placed by the
pairs of their first part and judged by those of their second. Statements are known by identity. Beside it stands
EM on the votes themselves (a Bernoulli mixture with half a vote for a pass), told the K that was taken.
"""

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_common import judge, judge_newcomers, promised, set_up, trained
from measure_votes import em_on_votes

from palign.data.preferences import Preferences
from palign.data.public_sets.folders import polis_rows
from palign.functional.partitions import adjusted_rand_index
from palign.trainers.pal_reward_trainer import PALRewardTrainer

CONVERSATIONS = ["land-bank", "biodiversity", "brexit", "bg2050", "freshwater", "football"]
Rows = list[dict[str, Any]]


def read(folder: Path, conversation: str, seed: int) -> tuple[dict[str, Rows], int, dict[str, str]]:
    """Pairs of "train", "test", "place" and "judge" (of newcomers) by number of statement; statements; groups."""
    options = {"form": "pairs", "n_items": 4, "rows": 40, "min_votes": 10, "test_share": 0.2, "seed": seed}
    rows = list(polis_rows(folder, Counter(), conversation=conversation, **options))
    numbers: dict[str, int] = {}
    people = sorted({str(row["annotator_id"]) for row in rows})
    new = set(np.random.default_rng(seed).permutation(people)[: len(people) // 5].tolist())
    parts: dict[str, Rows] = {"train": [], "test": [], "place": [], "judge": []}
    for row in rows:
        person = str(row["annotator_id"])
        sides = {side: numbers.setdefault(row[side], len(numbers)) for side in ("chosen", "rejected")}
        name = {"train": "place", "test": "judge"}[row["part"]] if person in new else row["part"]
        parts[name].append({"annotator_id": person} | {f"{side}_index": i for side, i in sides.items()})
    groups = {str(row["annotator_id"]): str(row.get("opinion_group")) for row in rows}
    return parts, len(numbers), groups


def measure(folder: Path, conversation: str, seed: int, n_prototypes: str) -> dict[str, Any]:
    """One split through `palign reward`'s own set-up and trainer."""
    parts, n_items, groups = read(folder, conversation, seed)
    known = {row["annotator_id"] for row in parts["train"]}
    parts["test"] = [row for row in parts["test"] if row["annotator_id"] in known]
    prefs = {name: Preferences.from_rows(rows, embeddings=n_items) for name, rows in parts.items()}
    with tempfile.TemporaryDirectory() as name:
        flags = ("--n_prototypes", n_prototypes, "--seed", str(seed))
        setup = set_up(Path(name), parts["train"], parts["test"], *flags, n_items=n_items)
        record: dict[str, Any] = {"conversation": conversation, "seed": seed, "K": setup.n_prototypes}
        record |= {"people": len(known), "newcomers": len({row["annotator_id"] for row in parts["judge"]})}
        for model, trainer in trained(setup):
            record |= judge(trainer.predict_scores(prefs["test"]), prefs["test"], model)
            record |= judge_newcomers(trainer, prefs["place"], prefs["judge"], setup.embeddings, model)
        record |= agreement(trainer, groups) | promised(setup)
    return record | em_beside(prefs, n_items, setup.n_prototypes)


def agreement(trainer: PALRewardTrainer, groups: dict[str, str]) -> dict[str, float]:
    """Adjusted Rand index of the largest weights with the conversation's own groups, over people who have one."""
    model = trainer.model
    people = [i for i, person in enumerate(model.annotators.ids) if groups[person] not in ("None", "nan", "")]
    if not people:
        return {}
    types = model.people.all().detach().cpu().argmax(1)[people]
    truth = np.unique([groups[model.annotators.ids[i]] for i in people], return_inverse=True)[1]
    return {"ari": float(adjusted_rand_index(types, torch.from_numpy(truth)))}


def em_beside(prefs: dict[str, Preferences], n_items: int, n_types: int) -> dict[str, float]:
    """Pair accuracy of EM on who won and who lost in a person's pairs, read back as votes."""
    ids = prefs["train"].annotators()
    votes = np.full((len(ids), n_items), np.nan)
    people = ids.indices(prefs["train"].annotator_ids)
    for column, vote in ((0, 1.0), (1, 0.0)):
        for person, item in zip(people, prefs["train"].item_indices[:, column], strict=True):
            votes[person, item] = vote if np.isnan(votes[person, item]) else (votes[person, item] + vote) / 2
    best = max((em_on_votes(votes, n_types, s) for s in range(5)), key=lambda fit: fit[1])[0]
    rows = ids.indices(prefs["test"].annotator_ids)
    scores = best[rows[:, None], prefs["test"].item_indices]
    return {"em_on_votes": float((scores[:, 0] > scores[:, 1]).mean())}


def main() -> None:
    """Print a row for each conversation and seed, and means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conversations", nargs="+", default=CONVERSATIONS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n_prototypes", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table = []
    for conversation in options.conversations:
        rows = [measure(options.folder, conversation, seed, options.n_prototypes) for seed in options.seeds]
        for row in rows:
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
        means = {k: np.mean([row[k] for row in rows]) for k in rows[0] if isinstance(rows[0][k], float)}
        shown = ", ".join(f"{k} {v:.3f}" for k, v in means.items())
        print(f"{conversation}: K = {[row['K'] for row in rows]}; {shown}", flush=True)
        table += rows
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
