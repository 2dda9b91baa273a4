"""Policies beside their reference, judged on the same rows: samples, report and summary, whatever trained them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState

from palign.evaluation.judging.samples import PolicySamples, means_by_type, policy_table, reward_prompts
from palign.evaluation.pages.figure_data import FigureData
from palign.evaluation.pages.figures import draw_training
from palign.evaluation.report import write_report
from palign.models.files.card import add_measured
from palign.pipelines.reports.run_end import write_summary
from palign.rewards import PersonalizedReward
from palign.writing import write_whole

__all__ = ["judge_policies"]

JUDGED = ("gold", "reward", "kl")
SHOWN = {"objective/reward": "reward", "objective/gold": "gold", "objective/kl": "KL"}


def judge_policies(
    samples: Mapping[str, PolicySamples],
    histories: Mapping[str, pd.DataFrame],
    *,
    rows: Sequence[Mapping[str, Any]],
    reward: PersonalizedReward,
    judge: Callable[[str, str], float] | None,
    output_dir: str | Path,
    algorithm: str,
    group_columns: Sequence[str] = (),
    seconds: float,
    notes: Sequence[str] = (),
    group_sizes: Mapping[str, int] | None = None,
    facts: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Reward, gold utility and KL of every policy by type, as samples.jsonl, report and summary.json.

    Where the reward model is divided among processes, all of them call this; the main one writes.

    Where `rows` have no `type`, everybody's is the prototype that weighs most for them, by which a policy is told who
    is asking, too.

    Args:
        samples: policy → one completion for each of `rows`; `reference` among them.
        histories: trained policy → a row per update with `step`, `objective/reward` and whatever else was logged.
        rows: held-out, with `prompt` and `annotator_id`.
        reward: of the person of each row; its scales are fitted on the reference's completions if they are not yet.
        judge: an independent judge, (completion, annotator_id) → utility.
        output_dir: where everything goes; the trained policies lie in folders of their names.
        algorithm: as it is called in titles: 'PPO', 'GRPO', 'RLOO'.
        group_columns: to report by, beside `type`.
        seconds: that training took.
        notes: further ones for the report, such as how the rows were read.
        group_sizes, facts: as `write_report` takes them.

    Returns:
        What summary.json holds; nothing on other processes than the main one.
    """
    output = Path(output_dir)
    if reward.standardize and not len(reward.scales):
        people = [row["annotator_id"] for row in rows]
        prompts = reward_prompts([row["prompt"] for row in rows], reward)
        reward.fit_scales(prompts, samples["reference"].completions, people)
    groups = ["type", *group_columns]
    table = pd.concat([policy_table(name, rows, s, reward, judge, groups) for name, s in samples.items()])
    if not PartialState().is_main_process:
        return {}
    people = list(dict.fromkeys(table["annotator_id"]))
    weights = reward.model.weights_for(people).detach().cpu().numpy()
    prototypes = [f"prototype_{k}" for k in range(weights.shape[1])]
    if "type" not in table and len(prototypes) > 1:
        type_of = dict(zip(people, (prototypes[k] for k in weights.argmax(1)), strict=True))
        table.insert(3, "type", table["annotator_id"].map(type_of))
    write_whole(output / "samples.jsonl", table.to_json(orient="records", lines=True, force_ascii=False))
    metrics = [name for name in JUDGED if name in table]
    for name, history in histories.items():
        judged = "reward and judge" if "objective/gold" in history else "reward"
        title = f"{algorithm}, {name}: {judged} as it was trained"
        draw_training(history, output / name / "history.svg", title=title)
    report = write_report(
        table, output_dir=output, metrics=metrics, group_columns=group_columns,
        title=f"Policies trained with {algorithm}", facts=facts, **(group_sizes or {}),
        notes=[
            *notes, standing_note(rows, people, reward), *cut_note(samples),
            *(training_note(name, h) for name, h in histories.items()),
        ],
        figures=FigureData(dict(zip(people, weights, strict=True)), prototypes, histories=histories),
    )  # fmt: skip
    summary = {name: value for metric in metrics for name, value in means_by_type(table, metric).items()}
    summary |= {f"{name}/n_updates": n_updates(history) for name, history in histories.items()}
    summary["training_seconds"] = seconds
    for name in histories:
        add_measured(output / name, report.headline)
    write_summary(output, summary)
    shown = table.groupby(["model", "type"] if "type" in table else "model", sort=False)[metrics].mean()
    print(f"\n{shown.round(2).to_string()}\n\ntraining took {seconds:.0f} s\nreport: {report.html_path}", flush=True)
    return summary


def n_updates(history: pd.DataFrame) -> float:
    """Updates behind a history: its `n_updates`, or the last `step`; those of several adapters are summed."""
    if not len(history):
        return 0.0
    updates = history["n_updates"] if "n_updates" in history else history["step"]
    return float(updates.groupby(history["adapter"]).max().sum() if "adapter" in history else updates.max())


def standing_note(rows: Sequence[Mapping[str, Any]], people: Sequence[str], reward: PersonalizedReward) -> str:
    """What the numbers rest on: how many completions, of whom, and what the unit of reward is; what a type is."""
    unit = (
        "standard deviations of each person's rewards over completions of the reference"
        if reward.standardize
        else "the reward model's own units"
    )
    sentence = f"Each policy wrote {len(rows):,} completions, for {len(people):,} people; reward is in {unit}."
    if "type" in rows[0]:
        return sentence
    return (
        f"{sentence} A type is the prototype of the reward model that weighs most for a person; "
        "prompts call it type k."
    )


def cut_note(samples: Mapping[str, PolicySamples]) -> list[str]:
    """Completions that did not end within the limit, where any policy has some."""
    shares = {name: float(s.is_cut.mean()) for name, s in samples.items() if s.is_cut is not None and s.is_cut.any()}
    if not shares:
        return []
    shown = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    return [f"Completions cut at the limit of tokens, and judged as they stand (is_cut in samples.jsonl): {shown}."]


def training_note(name: str, history: pd.DataFrame) -> str:
    """The reward trained on and, beside it, the judge's utility: where they part, the reward is being hacked."""
    shown = [column for column in SHOWN if column in history]
    steps = history.iloc[:: max(1, len(history) // 6)]
    parts = [
        f"update {int(row.step)}: " + ", ".join(f"{SHOWN[c]} {row[c]:.2f}" for c in shown)
        for _, row in steps.iterrows()
    ]
    return f"As {name} was trained, {'; '.join(parts)} (all updates: {name}/history.csv, drawn in {name}/history.svg)."
