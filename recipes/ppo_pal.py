"""PPO with the reward of the person each prompt belongs to.

    accelerate launch recipes/ppo_pal.py                     # the embedded default, from nothing
    accelerate launch recipes/ppo_pal.py --model_name_or_path MODEL --reward_model_path PAL_REWARD --dataset_name ROWS

Writes into `--output_dir`: `<conditioning>/` (policy, history.csv, history.svg), samples.jsonl, report.html,
report.md, report.json and summary.json.
"""

import json
import time
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from transformers import set_seed

from palign.conditioning import PolicyConditioning
from palign.evaluation.figure_data import FigureData
from palign.evaluation.figures import draw_training
from palign.evaluation.policy_samples import PolicySamples, sample_adapters, sample_policy
from palign.evaluation.policy_table import means_by_type, policy_table
from palign.evaluation.report import write_report
from palign.models.model_card import add_measured
from palign.trainers.pal_ppo_arguments import parse_policy_arguments
from palign.trainers.pal_ppo_runs import PPORuns
from palign.trainers.policy_runs import PolicyRun, PolicyRuns
from palign.trainers.policy_setup import set_up_policies


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train the policies, judge them beside the reference, report; returns what summary.json holds."""
    start = time.monotonic()
    script, args, model_args = parse_policy_arguments(argv)
    set_seed(args.seed)
    own = {"trust_remote_code": script.trust_remote_code, "n_value_layers": script.value_model_layers}
    runs = set_up_policies(script, args, model_args, PPORuns, **own)
    samples = {"reference": sample(runs, None)}
    histories: dict[str, pd.DataFrame] = {}
    for name in dict.fromkeys([*script.compare_with, args.policy_conditioning.value]):
        run = runs.train(name)
        samples[name], histories[name] = sample(runs, run), run.history
    seconds = time.monotonic() - start
    if not PartialState().is_main_process:
        return {}
    return judge(runs, samples, histories, [*script.group_columns], seconds)


def sample(runs: PolicyRuns, run: PolicyRun | None) -> PolicySamples:
    """One completion for each of the held-out rows, of a policy or, without one, of the reference."""
    args, told = runs.args, None if run is None else run.conditioning
    policy = runs.model if run is None else run.policy
    settings = {"max_new_tokens": args.response_length, "temperature": args.temperature, "seed": args.seed}
    if run is not None and runs.peft_config is None:
        settings["reference"] = runs.model
    if told is PolicyConditioning.ADAPTER:
        return sample_adapters(policy, runs.tokenizer, runs.eval_prompts(told), runs.eval_adapters(), **settings)
    return sample_policy(policy, runs.tokenizer, runs.eval_prompts(told), **settings)


def judge(
    runs: PolicyRuns,
    samples: dict[str, PolicySamples],
    histories: dict[str, pd.DataFrame],
    group_columns: list[str],
    seconds: float,
) -> dict[str, float]:
    """Reward, gold utility and KL of every policy by type, as samples.jsonl, report and summary.json."""
    output, rows = Path(runs.args.output_dir), runs.eval_rows
    if runs.args.standardize_rewards and not len(runs.reward.scales):
        people = [row["annotator_id"] for row in rows]
        runs.reward.fit_scales([row["prompt"] for row in rows], samples["reference"].completions, people)
    groups = ["type", *group_columns]
    table = pd.concat([policy_table(name, rows, s, runs.reward, runs.judge, groups) for name, s in samples.items()])
    table.to_json(output / "samples.jsonl", orient="records", lines=True, force_ascii=False)
    metrics = [name for name in ("gold", "reward", "kl") if name in table]
    for name, history in histories.items():
        draw_training(history, output / name / "history.svg", title=f"PPO, {name}: reward and judge as it was trained")
    people = list(dict.fromkeys(table["annotator_id"]))
    weights = runs.reward.model.weights_for(people).detach().cpu().numpy()
    report = write_report(
        table, output_dir=output, metrics=metrics, group_columns=group_columns, title="Policies trained with PPO",
        notes=[training_note(name, history) for name, history in histories.items()],
        figures=FigureData(dict(zip(people, weights, strict=True)), histories=histories),
    )  # fmt: skip
    summary = {name: value for metric in metrics for name, value in means_by_type(table, metric).items()}
    summary |= {f"{name}/n_updates": float(len(history)) for name, history in histories.items()}
    summary["training_seconds"] = seconds
    for name in histories:
        add_measured(output / name, report.headline)
    (output / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    shown = table.groupby(["model", "type"] if "type" in table else "model", sort=False)[metrics].mean()
    print(f"\n{shown.round(2).to_string()}\n\ntraining took {seconds:.0f} s\nreport: {report.html_path}", flush=True)
    return summary


def training_note(name: str, history: pd.DataFrame) -> str:
    """The reward trained on and, beside it, the judge's utility: where they part, the reward is being hacked."""
    columns = {"objective/reward": "reward", "objective/gold": "gold", "objective/kl": "KL"}
    shown = [column for column in columns if column in history]
    steps = history.iloc[:: max(1, len(history) // 6)]
    parts = [
        f"update {int(row.step)}: " + ", ".join(f"{columns[c]} {row[c]:.2f}" for c in shown)
        for _, row in steps.iterrows()
    ]
    return (
        f"As `{name}` was trained, {'; '.join(parts)} (all updates: {name}/history.csv, drawn in {name}/history.svg)."
    )


if __name__ == "__main__":
    main()
