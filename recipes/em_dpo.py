"""Latent types of annotators, and one LoRA adapter for each: EM mixture-DPO.

    accelerate launch recipes/em_dpo.py                     # the embedded default, from nothing
    accelerate launch recipes/em_dpo.py --model_name_or_path MODEL --dataset_name ROWS --n_types auto

Writes into `--output_dir`: type_0/ … (plain PEFT adapters), mixture.json, responsibilities.parquet, README.md,
samples.md, scores.csv, report.html, report.md, report.json and summary.json; baselines in `baselines/`; and, where
rows to evaluate on were not named, held_out.jsonl: the rows that nothing was trained on.
"""

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState
from transformers import set_seed

from palign.cli.errors import run
from palign.cli.library_log import keep_library_log
from palign.cli.steps import STEPS, Steps
from palign.data.guards.finding import completion_texts
from palign.data.trained_rows import save_trained_rows, write_held_out
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.report_keys import LikesRecord
from palign.evaluation.pages.type_likes import type_likes
from palign.evaluation.report import write_report
from palign.evaluation.scoring import score_table, scores_csv
from palign.models.files.card import add_measured
from palign.models.files.mixture import MixtureRecord
from palign.parallel.sharded import is_sharded
from palign.pipelines.arguments.mixture import MixtureArguments, parse_mixture_arguments
from palign.pipelines.mixture import MixtureSetup, set_up_mixture
from palign.pipelines.reports.facts import data_facts
from palign.pipelines.reports.mixture import (
    check_notes,
    choice_note,
    compare_types,
    drawn_beta_note,
    reference_note,
)
from palign.pipelines.reports.reward import people_in_no_number
from palign.pipelines.reports.run_end import write_summary
from palign.pipelines.reports.type_samples import side_by_side
from palign.writing import write_whole

LINEAR = "linear start"  # what the adapters began from, and must better to be worth their hours
ONE_FOR_ALL = "one adapter for all (K = 1), since people held out gave no reason to tell annotators apart"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train the baselines and the mixture, judge them on held-out rows, report; returns what summary.json holds."""
    start = time.monotonic()
    script, data_args, args, model_args = parse_mixture_arguments(argv)
    keep_library_log(args.output_dir)
    set_seed(args.seed)
    steps = Steps(STEPS["em-dpo"])
    steps.replace(1, [f"baseline {name}" for name in script.baselines])
    steps.next()
    setup = set_up_mixture(script, data_args, args, model_args)
    policies, scores, seconds = {}, {}, {}
    resume = args.resume_from_checkpoint
    for name in [*script.baselines, "em"]:
        steps.next()
        done = setup.finished(name) if resume and name != "em" else None
        if done is not None:
            scores[name], seconds[f"{name}/training_seconds"] = done
            continue
        began = time.monotonic()
        trainer = setup.trainer(name)
        linear = trainer.linear_scores(setup.eval_rows) if name == "em" else None
        if linear is not None:
            scores = {LINEAR: linear.numpy()} | scores
        trainer.train(resume_from_checkpoint=resume if name == "em" else resume is not None)
        trainer.save_model()
        seconds[f"{name}/training_seconds"] = time.monotonic() - began
        policies[name] = trainer.mixture_policy()
        rewards = policies[name].type_rewards(setup.eval_rows, together=True, show_progress=not args.disable_tqdm)
        scores[name] = policies[name].expected_rewards(rewards, setup.eval_rows).numpy()
        if name != "em":
            setup.finish(name, scores[name], seconds[f"{name}/training_seconds"])
            setup.release(trainer)
    seconds["training_seconds"] = time.monotonic() - start
    samples = ""
    steps.next()
    if PartialState().is_main_process or is_sharded(policies["em"].policies):  # divided weights speak together
        samples = side_by_side(
            policies["em"],
            setup.eval_rows,
            n_prompts=script.n_sample_prompts,
            max_new_tokens=script.max_new_tokens,
            show_progress=not args.disable_tqdm,
        )
    if not PartialState().is_main_process:
        return {}
    if setup.dealt is not None:
        save_trained_rows(args.output_dir, setup.train_rows, dealt=setup.dealt, held_out=setup.eval_rows)
        write_held_out(args.output_dir, setup.eval_rows)
    steps.next()
    texts, row, place = completion_texts(setup.eval_rows)
    likes = type_likes([f"type_{k}" for k in range(policies["em"].n_types)], texts, rewards.numpy()[row, place], row)
    return judge(setup, script, policies["em"].record, scores, samples, seconds, likes)


def judge(
    setup: MixtureSetup,
    script: MixtureArguments,
    record: MixtureRecord,
    scores: dict[str, Any],
    samples: str,
    seconds: dict[str, float],
    likes: list[LikesRecord],
) -> dict[str, float]:
    """Accuracy on held-out rows by declared type, agreement of the types found with it, report, summary."""
    output, rows = Path(setup.args.output_dir), setup.eval_rows
    names = [f"type_{k}" for k in record.responsibilities.argmax(1)]
    type_of = dict(zip(record.annotators.ids, names, strict=True))
    if script.type_column in rows.columns:
        type_of = dict(zip(rows.annotator_ids, rows.columns[script.type_column], strict=True))
    types = None if script.type_column == "type" in rows.columns else type_of
    table = pd.concat(score_table(values, rows, model=name, types=types) for name, values in scores.items())
    write_whole(output / "scores.csv", scores_csv(table, safe=script.safe_csv))
    summary = {"n_types": float(record.n_types)} | compare_types(record, setup.truth)
    for (name, kind), part in table.groupby(["model", "type"], sort=False):
        summary[f"{name}/{kind}/accuracy"] = float(part["accuracy"].mean())
    for name, part in table.groupby("model", sort=False):
        summary |= {f"{name}/{metric}": float(part[metric].mean()) for metric in ("accuracy", "log_likelihood")}
    summary |= seconds
    write_whole(output / "samples.md", samples)
    drawn = []
    if "drawn_beta" in scores:
        betas, spread = setup.row_betas(), setup.beta_spread
        drawn = [drawn_beta_note(betas, beta=setup.args.beta, spread=spread)]
    report = write_report(
        table, output_dir=output, metrics=("accuracy", "log_likelihood"), group_columns=setup.group_columns,
        title="EM mixture-DPO", main="em", baseline=("pooled", "drawn_beta", LINEAR), judgements="held-out judgements",
        remarks=[ONE_FOR_ALL] if record.n_types == 1 and record.details.get("choice_of_k") else [],
        notes=[
            *setup.guard_notes,
            *people_in_no_number(setup.train_rows, rows), *reference_note(record), *choice_note(record),
            *drawn, *check_notes(record),
        ],
        facts=data_facts(setup.train_rows, rows, setup.base_name), extra=summary, **setup.group_sizes,
        figures=FigureData(dict(zip(record.annotators.ids, record.responsibilities, strict=True)), likes=likes),
    )  # fmt: skip
    add_measured(output, report.headline)
    write_summary(output, summary)
    shown = table.groupby(["model", "type"], sort=False)["accuracy"].mean().unstack(0)
    print(f"\n{samples}\n{shown.round(3).to_string()}\n\n{pd.Series(summary).round(3).to_string()}")
    print("", *report.conclusion, sep="\n")
    print(f"\nadapters: {output}\nsamples: {output / 'samples.md'}\nreport: {report.html_path}", flush=True)
    return summary


if __name__ == "__main__":
    sys.exit(run("em_dpo.py", main))
