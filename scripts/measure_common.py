"""What the scripts that measure PAL rewards share: a run of `palign reward`'s set-up and trainer, and its figures."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.functional.losses import pair_order, plackett_luce
from palign.pipelines.arguments.reward import parse_reward_arguments
from palign.pipelines.reward import RewardSetup, set_up_reward
from palign.trainers.pal_reward_trainer import PALRewardTrainer

__all__ = ["judge", "judge_newcomers", "promised", "set_up", "trained"]

Rows = list[dict[str, Any]]


def set_up(folder: Path, train: Rows, test: Rows, *flags: str, n_items: int | None = None) -> RewardSetup:
    """What `palign reward` sets up of these rows and flags.

    Args:
        folder: where the rows are written.
        n_items: of rows that name items, which are known by identity; None for rows of text.
    """
    for part, rows in (("train", train), ("test", test)):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if n_items is not None:
        np.save(folder / "items.npy", 3 * np.eye(n_items, dtype=np.float32))
        flags = (*flags, "--embeddings", str(folder / "items.npy"))
    script, data_args, args, model_args = parse_reward_arguments([
        "--dataset_name", str(folder / "train.jsonl"), "--eval_dataset_name", str(folder / "test.jsonl"),
        "--output_dir", str(folder / "out"), "--disable_tqdm", "True", "--guard", "off", *flags,
    ])  # fmt: skip
    return set_up_reward(script, data_args, args, model_args)


def trained(setup: RewardSetup) -> Iterator[tuple[str, PALRewardTrainer]]:
    """The pooled reward, then PAL, each trained."""
    for name, k in {"pooled": 1, "pal": setup.n_prototypes}.items():
        trainer = PALRewardTrainer(
            setup.make_model(k), setup.args, setup.train_rows, embeddings=setup.embeddings, store=setup.store,
            choice=setup.choice_of(name),
        )  # fmt: skip
        trainer.train()
        yield name, trainer


def judge(scores: torch.Tensor, rows: Preferences, name: str) -> dict[str, float]:
    """`name/accuracy` and `name/nats` (a judgement) of rewards (n_rows, max_items)."""
    ranks = torch.from_numpy(rows.ranks.astype(np.int64))
    right, n_pairs = pair_order(scores, ranks)
    nats = -plackett_luce(scores, ranks)
    return {f"{name}/accuracy": float((right / n_pairs).mean()), f"{name}/nats": float(nats.mean())}


def judge_newcomers(
    trainer: PALRewardTrainer, place: Preferences, judged: Preferences, embeddings: np.ndarray, name: str
) -> dict[str, float]:
    """`judge` of people who were in no training, placed by `place`; who has no row there has the mean weights."""
    fit = trainer.model.fit_annotators(place, embeddings=embeddings)
    rows = torch.from_numpy(AnnotatorIndex(fit.ids).indices(judged.annotator_ids, unknown=-1))
    weights = torch.where(rows[:, None] >= 0, fit.weights[rows.clamp_min(0)], trainer.model.people.mean.cpu())
    personal = {} if fit.deviations is None else {"deviations": fit.deviations[rows.clamp_min(0)]}
    return judge(trainer.predict_scores(judged, weights=weights, **personal), judged, f"{name}/newcomers")


def promised(setup: RewardSetup) -> dict[str, float]:
    """What the choice of K promises over K = 1, nats an answer, and its error; nothing where there was no choice."""
    if setup.choice is None or not setup.choice.table:
        return {}
    row = next(row for row in setup.choice.table if row["n_prototypes"] == setup.n_prototypes)
    return {"promised": row["gain"], "promised_error": row["gain_error"]}
