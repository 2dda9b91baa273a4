"""GRPO, or RLOO, with the reward of the person each prompt belongs to; runs on any TRL from 1.12 on.

    accelerate launch recipes/grpo_pal.py                     # the embedded default, from nothing
    accelerate launch recipes/grpo_pal.py --algorithm rloo
    accelerate launch recipes/grpo_pal.py --model_name_or_path MODEL --reward_model_path PAL_REWARD --dataset_name ROWS

Writes into `--output_dir`: `<conditioning>/` (policy, history.csv, history.svg), samples.jsonl, report.html,
report.md, report.json and summary.json.
"""

import sys
import time

import pandas as pd
from accelerate import PartialState
from transformers import set_seed

from palign.cli.errors import run
from palign.cli.library_log import keep_library_log
from palign.cli.steps import STEPS, Steps
from palign.evaluation.judging.samples import sample_rows
from palign.parallel.sharded import is_sharded
from palign.pipelines.grpo import GRPORuns, parse_grpo_arguments
from palign.pipelines.in_context import IN_CONTEXT
from palign.pipelines.policies import set_up_policies
from palign.pipelines.reports.facts import policy_facts
from palign.pipelines.reports.policies import judge_policies
from palign.trainers.pal_grpo_config import GroupAlgorithm


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train the policies, judge them beside the reference, report; returns what summary.json holds."""
    start = time.monotonic()
    script, args, model_args = parse_grpo_arguments(argv)
    keep_library_log(args.output_dir)
    set_seed(args.seed)
    names = list(dict.fromkeys([*script.compare_with, args.policy_conditioning.value]))
    steps = Steps(STEPS["grpo"])
    steps.replace(2, [f"training of the policy {name!r}" for name in names])
    steps.next()
    further = {"trust_remote_code": args.trust_remote_code, "algorithm": GroupAlgorithm(script.algorithm)}
    runs = set_up_policies(script, args, model_args, GRPORuns, **further)
    steps.next()
    samples = {"reference": sample_rows(**runs.sampling(None))}
    if runs.in_context_prompts is not None:
        samples[IN_CONTEXT] = sample_rows(**runs.sampling_in_context())
    histories: dict[str, pd.DataFrame] = {}
    for name in names:
        steps.next()
        run = runs.train(name)
        samples[name], histories[name] = sample_rows(**runs.sampling(run)), run.history
    seconds = time.monotonic() - start
    if not (PartialState().is_main_process or is_sharded(runs.reward.model)):  # divided weights judge together
        return {}
    steps.next()
    return judge_policies(
        samples, histories, rows=runs.eval_rows, reward=runs.reward, judge=runs.judge, output_dir=args.output_dir,
        algorithm=script.algorithm.upper(), group_columns=script.group_columns, seconds=seconds, notes=runs.reading,
        group_sizes=script.group_sizes(), facts=policy_facts(runs.reading, model_args.model_name_or_path),
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run("grpo_pal.py", main))
