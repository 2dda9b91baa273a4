"""One metric for all, an ideal point each (Canal et al., NeurIPS 2022).

    python recipes/metric.py                                                     # the embedded default, seconds
    python recipes/metric.py --dataset_name ROWS --embeddings VECTORS.npy        # rows that name vectors
    python recipes/metric.py --dataset_name ROWS --model_name_or_path BACKBONE   # rows of text

Writes into `--output_dir`: the model (model.safetensors, config.json, annotators.json, trained_rows.safetensors,
README.md), report.html, report.md, report.json, scores.csv, summary.json, and, where rows to evaluate on were not
named, held_out.jsonl.
"""

import sys
from pathlib import Path

import pandas as pd

from palign.cli.errors import run
from palign.cli.steps import STEPS, Steps
from palign.data.trained_rows import save_trained_rows, write_held_out
from palign.evaluation.report import write_report
from palign.evaluation.scoring import score_table, scores_csv
from palign.pipelines.arguments.metric import MetricArguments, parse_metric_arguments
from palign.pipelines.metric import FittedMetric, MetricRows, fit_all, read_metric_rows
from palign.pipelines.reports.run_end import end_of_run
from palign.writing import write_whole


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Fit the metric and its baselines, save, report; returns what summary.json holds."""
    script, data_args = parse_metric_arguments(argv)
    steps = Steps(STEPS["metric"])
    steps.next()
    rows = read_metric_rows(script, data_args)
    steps.next()
    fitted = fit_all(rows, script)
    fitted.model.save_pretrained(script.output_dir)
    held_out = None if rows.dealt is None else rows.evaluation
    save_trained_rows(script.output_dir, rows.train, dealt=rows.dealt, held_out=held_out)
    if held_out is not None:
        write_held_out(script.output_dir, held_out)
    steps.next()
    return judge(rows, fitted, script)


def judge(rows: MetricRows, fitted: FittedMetric, script: MetricArguments) -> dict[str, float]:
    """Held-out accuracy of everybody beside the baselines', as scores.csv, report and summary.json."""
    output, vectors = Path(script.output_dir), rows.vectors(rows.evaluation)
    scores = fitted.scores(rows.evaluation, vectors)
    table = pd.concat(score_table(values.numpy(), rows.evaluation, model=name) for name, values in scores.items())
    write_whole(output / "scores.csv", scores_csv(table, safe=script.safe_csv))
    summary = {
        "dim": float(fitted.model.config.dim),
        "duality_gap": fitted.fit.gap,
        "steps": float(fitted.fit.n_steps),
    }
    if fitted.choice is not None:
        summary["chosen/log_likelihood"] = fitted.choice.log_likelihood
    for name, part in table.groupby("model", sort=False):
        summary |= {f"{name}/{metric}": float(part[metric].mean()) for metric in ("accuracy", "log_likelihood")}
        of_person = part.groupby("annotator_id")["accuracy"].mean()
        summary[f"{name}/person_accuracy"] = float(of_person.mean())
        summary[f"{name}/worst_tenth_accuracy"] = float(
            of_person.sort_values().iloc[: -(-len(of_person) // 10)].mean()
        )
    report = write_report(
        table, output_dir=output, metrics=("accuracy", "log_likelihood"), group_columns=rows.group_columns,
        title="One metric for all", baseline=tuple(fitted.baselines), main="metric", judgements="held-out judgements",
        notes=fitted.notes, facts=fitted.facts, extra=summary, **rows.group_sizes,
    )  # fmt: skip
    end_of_run(output, summary, report)
    return summary


if __name__ == "__main__":
    sys.exit(run("metric.py", main))
