"""A reward model that knows who it scores for.

    accelerate launch recipes/pal_reward.py                                   # the embedded default, vectors, seconds
    accelerate launch recipes/pal_reward.py --dataset_name ROWS --model_name_or_path BACKBONE --n_prototypes auto
    accelerate launch recipes/pal_reward.py --dataset_name ROWS --embeddings VECTORS.npy --eval_dataset_name TEST

Writes into `--output_dir`: the model (model.safetensors, config.json, annotators.json, trained_rows.safetensors,
README.md), report.html, report.md, report.json, scores.csv and summary.json; the pooled baseline, a model like it, in
`pooled/`; and, where rows to evaluate on were not named, held_out.jsonl: the rows that nothing was trained on.
"""

import copy
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import PartialState
from torch import Tensor

from palign.cli.errors import run
from palign.cli.library_log import keep_library_log
from palign.cli.steps import STEPS, Steps
from palign.data.trained_rows import save_trained_rows, write_held_out
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.image_likes import image_likes
from palign.evaluation.pages.type_likes import type_likes
from palign.evaluation.report import write_report
from palign.evaluation.scoring import score_table, scores_csv
from palign.parallel.sharded import is_sharded
from palign.pipelines.arguments.reward_options import read_reward_arguments
from palign.pipelines.reports.run_end import end_of_run
from palign.pipelines.reward import RewardSetup, dominant_prototypes, set_up_reward
from palign.pipelines.run_names import run_name
from palign.trainers.reward.head_training import HeadTraining
from palign.writing import write_whole

ONE_FOR_ALL = "one reward for all (K = 1), since people held out gave no reason to tell annotators apart"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train PAL and the pooled baseline, place newcomers, report; returns what summary.json holds."""
    start = time.monotonic()
    script, data_args, args, model_args = read_reward_arguments(argv)
    keep_library_log(args.output_dir)
    steps = Steps(STEPS["reward"])
    steps.next()
    setup = set_up_reward(script, data_args, args, model_args)
    if setup.n_prototypes == 1 or not script.pooled_baseline:
        steps.replace(1, [])
    trainers, resume = {}, args.resume_from_checkpoint
    for name in ("pooled", "pal"):
        if name == "pal" or (script.pooled_baseline and setup.n_prototypes > 1):
            steps.next()
            run_args = copy.copy(args)
            run_args.output_dir = args.output_dir if name == "pal" else str(Path(args.output_dir) / name)
            run_args.run_name = run_name(args.run_name, "reward", name, seed=args.seed)
            trainers[name] = setup.make_trainer(name, run_args, model_args)
            trainers[name].train(resume_from_checkpoint=resume if name == "pal" else resume is not None)
    for trainer in trainers.values():
        trainer.save_model()
    if setup.dealt is not None and PartialState().is_main_process:
        for trainer in trainers.values():
            save_trained_rows(trainer.args.output_dir, setup.train_rows, dealt=setup.dealt, held_out=setup.eval_rows)
        write_held_out(args.output_dir, setup.eval_rows)
    seconds = time.monotonic() - start
    steps.next()
    scores = {name: trainer.predict_scores(setup.eval_rows, together=True) for name, trainer in trainers.items()}
    if not (PartialState().is_main_process or is_sharded(trainers["pal"].model)):  # divided weights judge together
        return {}
    newcomers = setup.newcomer_accuracies(trainers["pal"])
    prototype_scores = trainers["pal"].prototype_scores(setup.eval_rows)
    if not PartialState().is_main_process:
        return {}
    return judge(setup, trainers["pal"], scores, newcomers, prototype_scores, args.output_dir, seconds)


def judge(
    setup: RewardSetup,
    trainer: HeadTraining,
    scores: dict[str, Tensor],
    newcomers: dict[str, float],
    prototype_scores: tuple[list[str], np.ndarray, np.ndarray],
    output_dir: str,
    seconds: float,
) -> dict[str, float]:
    """Held-out accuracy of everybody, of types and of newcomers, as scores.csv, report and summary.json."""
    output, model = Path(output_dir), trainer.model
    types = None if "type" in setup.eval_rows.columns else dominant_prototypes(model)
    table = pd.concat(
        score_table(values.numpy(), setup.eval_rows, model=name, types=types) for name, values in scores.items()
    )
    write_whole(output / "scores.csv", scores_csv(table, safe=setup.script.safe_csv))
    summary = {"n_prototypes": float(setup.n_prototypes)}
    for name, rows in table.groupby("model", sort=False):
        summary |= {f"{name}/{metric}": float(rows[metric].mean()) for metric in ("accuracy", "log_likelihood")}
        if len(by_type := rows.groupby("type")["accuracy"].mean()):  # strangers have none
            summary[f"{name}/worst_type_accuracy"] = float(by_type.min())
    summary |= newcomers
    summary["training_seconds"] = seconds
    names = [f"prototype_{k}" for k in range(setup.n_prototypes)]
    likes = type_likes(names, *prototype_scores)
    report = write_report(
        table, output_dir=output, metrics=("accuracy", "log_likelihood"), group_columns=setup.group_columns,
        title="PAL reward model", judgements="held-out judgements",
        remarks=[ONE_FOR_ALL] if setup.n_prototypes == 1 and setup.choice is not None else [],
        notes=setup.notes(), facts=setup.facts(), extra=summary, **setup.group_sizes,
        figures=FigureData(
            dict(zip(model.annotators.ids, model.people.all().detach().cpu().numpy(), strict=True)),
            names, likes=likes,
            image_likes=[] if setup.images is None else image_likes(setup.images, names, *prototype_scores),
        ),
    )  # fmt: skip
    end_of_run(output, summary, report)
    return summary


if __name__ == "__main__":
    sys.exit(run("pal_reward.py", main))
