"""K type policies in, one fair LoRA policy out: min-max regret aggregation.

    accelerate launch recipes/fair_policy.py                # outputs/em_dpo, or the embedded default from nothing
    accelerate launch recipes/fair_policy.py --mixture_path mixture_dpo/ --dataset_name ROWS

Writes into `--output_dir`: adapter_model.safetensors and adapter_config.json (one plain PEFT adapter), game.json,
README.md (model card), samples.md, report.html, report.md, report.json and summary.json; finished routes in `routes/`.
"""

import sys
import time
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from transformers import set_seed

from palign.cli.errors import run
from palign.cli.library_log import keep_library_log
from palign.cli.steps import STEPS, Steps
from palign.evaluation.report import write_report
from palign.models.files.card import add_measured
from palign.models.files.game import fair_table
from palign.pipelines.arguments.fair import FairPolicyArguments, parse_fair_arguments
from palign.pipelines.fair import FairSetup, set_up_fair_policy
from palign.pipelines.reports.facts import data_facts
from palign.pipelines.reports.fair import (
    add_gold,
    fair_figures,
    fair_samples,
    fair_summary,
    room_note,
    vote_note,
    vote_table,
)
from palign.pipelines.reports.run_end import write_summary
from palign.writing import write_whole


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Estimate, solve, build every route, measure, choose, report; returns what summary.json holds."""
    start = time.monotonic()
    script, data_args, args = parse_fair_arguments(argv)
    keep_library_log(args.output_dir)
    set_seed(args.seed)
    steps = Steps(STEPS["fair"])
    steps.next()
    setup = set_up_fair_policy(script, data_args, args)
    steps.next()
    setup.trainer.train()
    steps.next()
    if not PartialState().is_main_process:
        return {}
    return show(setup, script, start)


def show(setup: FairSetup, script: FairPolicyArguments, start: float) -> dict[str, float]:
    """The independent judge where there is one, the adapter, samples, the report on held-out votes, the summary."""
    trainer, record = setup.trainer, setup.trainer.record
    tokenizer, output = trainer.mixture.tokenizer, Path(trainer.args.output_dir)
    texts = {name: draws.texts(tokenizer) for name, draws in trainer.eval_draws.items()}
    if setup.gold is not None:
        add_gold(record, texts, trainer.mixture.policies.names, setup.gold, optimum=setup.optimum)
    record["notes"].append(vote_note(record))
    record["notes"].insert(0, room_note(record))
    trainer.save_model()
    samples = fair_samples(record, texts, trainer.eval_prompts, tokenizer, n_prompts=script.n_sample_prompts)
    write_whole(output / "samples.md", samples)
    numbers = trainer.mixture.record.responsibilities.argmax(1)
    types = {
        person: trainer.type_names[k] for person, k in zip(trainer.mixture.record.annotators.ids, numbers, strict=True)
    }
    summary = fair_summary(record) | {"total_seconds": time.monotonic() - start}
    report = write_report(
        vote_table(record, trainer.vote_scores, trainer.eval_rows, types), output_dir=output,
        metrics=("accuracy", "log_likelihood"), group_columns=setup.group_columns, title="Fair policy",
        notes=[*setup.guard_notes, *record["notes"]], extra=summary, **setup.group_sizes,
        facts=data_facts(trainer.train_rows, trainer.eval_rows, trainer.mixture.record.base_model or "its own base"),
        main=record["chosen"], figures=fair_figures(record, trainer.mixture.record),
    )  # fmt: skip
    add_measured(output, report.headline)
    write_summary(output, summary)
    print(f"\n{samples}\n{fair_table(record)}\n{pd.Series(record['seconds']).round(1).to_string()}")
    print("".join(f"\nnote: {note}" for note in record["notes"]))
    print(f"chosen: {record['chosen']}\nadapter: {output}\ngame: {output / 'game.json'}\nreport: {report.html_path}")
    return summary


if __name__ == "__main__":
    sys.exit(run("fair_policy.py", main))
