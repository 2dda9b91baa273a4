#!/usr/bin/env python3
"""Made worlds of votes: does `palign reward` take one type where people agree, two where there are two camps?

    python scripts/measure_votes.py [--seeds 0 1 2] [--camps 1 2] [--forms pairs votes] [--auto] [--out FILE.json]
    python scripts/measure_votes.py --auto --people 375 --items 275 --votes 30      # a larger world

300 people vote on 16 of 200 items each to be learned from and on 8 to be judged by; camps have independent tastes. As
pairs a person's votes are up to 30 of yes over no; as votes they are one row of two tiers. Items are known by
identity. Beside the reward stands EM on the votes themselves, a Bernoulli mixture in twenty lines that is told K. What
the choice promises is compared with what 300 people of the same world gain who were in no training.
"""

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from measure_common import judge, judge_newcomers, promised, set_up, trained

from palign.data.preferences import Preferences
from palign.functional.partitions import adjusted_rand_index
from palign.models.row_tensors import evidence_or_none

N_JUDGED, N_PAIRS = 8, 30


@dataclass(frozen=True)
class Size:
    """People, items, and items that each person votes on to be learned from."""

    people: int = 300
    items: int = 200
    votes: int = 16


def make_world(n_camps: int, seed: int, size: Size) -> dict[str, np.ndarray]:
    """Votes (2 · people, items) learned from and judged by, NaN where none; the second half are newcomers."""
    rng = np.random.default_rng(seed)
    taste = rng.normal(size=(n_camps, size.items)) * 1.2
    camp = rng.integers(n_camps, size=2 * size.people)
    learned = np.full((2 * size.people, size.items), np.nan)
    judged, n_seen = learned.copy(), size.votes + N_JUDGED
    for person, own in enumerate(camp):
        items = rng.choice(size.items, n_seen, replace=False)
        vote = rng.random(n_seen) < 1 / (1 + np.exp(-taste[own, items]))
        learned[person, items[: size.votes]] = vote[: size.votes]
        judged[person, items[size.votes :]] = vote[size.votes :]
    return {"learned": learned, "judged": judged, "camp": camp}


def as_rows(votes: np.ndarray, form: str, seed: int) -> list[dict[str, object]]:
    """Votes as pairs of a yes over a no, or as one row of two tiers a person."""
    rng, rows = np.random.default_rng(seed), []
    for person, own in enumerate(votes):
        yes, no = np.flatnonzero(own == 1), np.flatnonzero(own == 0)
        if len(yes) == 0 or len(no) == 0:
            continue
        if form == "votes":
            items = [*yes.tolist(), *no.tolist()]
            rows.append({"annotator_id": f"p{person}", "completion_indices": items,
                         "ratings": [1] * len(yes) + [0] * len(no)})  # fmt: skip
            continue
        pairs = rng.permutation([(a, b) for a in yes for b in no])[:N_PAIRS]
        rows += [{"annotator_id": f"p{person}", "chosen_index": int(a), "rejected_index": int(b)} for a, b in pairs]
    return rows


def em_on_votes(votes: np.ndarray, n_types: int, seed: int) -> tuple[np.ndarray, float]:
    """Log-odds (n_people, n_items) of a yes under a Bernoulli mixture with one pseudo-vote each way; its evidence."""
    rng, seen, yes = np.random.default_rng(seed), ~np.isnan(votes), np.nan_to_num(votes)
    gamma = rng.dirichlet(np.ones(n_types), len(votes))
    for step in range(200):
        share = (gamma.T @ yes + 1) / (gamma.T @ seen + 2)
        joint = yes @ np.log(share).T + (seen - yes) @ np.log(1 - share).T + np.log(gamma.mean(0))
        gamma = np.exp(min(1, 0.2 + 0.02 * step) * (joint - joint.max(1, keepdims=True)))
        gamma /= gamma.sum(1, keepdims=True)
    evidence = np.log(np.exp(joint - joint.max(1, keepdims=True)).sum(1)) + joint.max(1)
    mean = gamma @ share
    return np.log(mean / (1 - mean)), float(evidence.sum())


def pair_accuracy(log_odds: np.ndarray, pairs: Preferences) -> float:
    """Of pairs whose annotators p0, p1, … are rows of (n_people, n_items)."""
    people = np.array([int(name[1:]) for name in pairs.annotator_ids])
    scores = log_odds[people[:, None], pairs.item_indices]
    return float((scores[:, 0] > scores[:, 1]).mean())


def measure(n_camps: int, seed: int, form: str, n_prototypes: str, size: Size) -> dict[str, object]:
    """One world through `palign reward`'s own set-up and trainer."""
    world = make_world(n_camps, seed, size)
    known, new = slice(0, size.people), slice(size.people, None)
    train = as_rows(world["learned"][known], form, seed)
    pairs = Preferences.from_rows(as_rows(world["judged"][known], "pairs", seed), embeddings=size.items)
    place = Preferences.from_rows(as_rows(world["learned"][new], form, seed), embeddings=size.items)
    judged = Preferences.from_rows(as_rows(world["judged"][new], "pairs", seed), embeddings=size.items)
    with tempfile.TemporaryDirectory() as folder:
        setup = set_up(Path(folder), train, pairs.to_rows(), "--n_prototypes", n_prototypes, n_items=size.items)
        record: dict[str, object] = {"camps": n_camps, "seed": seed, "form": form, "K": setup.n_prototypes}
        for name, trainer in trained(setup):
            record |= judge(trainer.predict_scores(pairs), pairs, name)
            record |= judge_newcomers(trainer, place, judged, setup.embeddings, name)
    ids = trainer.model.annotators.ids
    types = trainer.model.people.all().detach().cpu().argmax(1)
    record["ari"] = float(adjusted_rand_index(types, torch.from_numpy(world["camp"][[int(i[1:]) for i in ids]])))
    record |= promised(setup)
    if setup.choice is not None and setup.choice.table:
        record |= {"variant": setup.choice.variant, "personal": setup.choice.personal is not None}
    best = max((em_on_votes(world["learned"][known], n_camps, s) for s in range(5)), key=lambda fit: fit[1])[0]
    record["em_on_votes"] = pair_accuracy(best, pairs)
    record["evidence"] = _evidence(setup.train_rows)
    return record


def _evidence(rows: Preferences) -> float:
    people = rows.annotators().indices(rows.annotator_ids)
    arrays = (rows.item_indices, rows.ranks.astype(np.int64), people)
    evidence = evidence_or_none(*(torch.from_numpy(np.asarray(array)) for array in arrays))
    return 1.0 if evidence is None else float(evidence.mean())


def main() -> None:
    """Print a row a world, and means with standard errors over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--camps", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--forms", nargs="+", default=["pairs"], choices=["pairs", "votes"])
    parser.add_argument("--auto", action="store_true", help="choose K; else it is told the number of camps")
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    table, size = [], Size(options.people, options.items, options.votes)
    for form in options.forms:
        for n_camps in options.camps:
            rows = []
            for seed in options.seeds:
                rows.append(measure(n_camps, seed, form, "auto" if options.auto else str(n_camps), size))
                print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            numbers = {k: np.array([row[k] for row in rows]) for k in rows[0] if isinstance(rows[0][k], float)}
            shown = ", ".join(
                f"{k} {v.mean():.4f} ± {v.std(ddof=1) / len(v) ** 0.5 if len(v) > 1 else 0:.4f}"
                for k, v in numbers.items()
            )
            print(f"{form}, {n_camps} camp(s), {len(rows)} seeds: K = {[row['K'] for row in rows]}; {shown}")
            table += rows
    if options.out is not None:
        options.out.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
