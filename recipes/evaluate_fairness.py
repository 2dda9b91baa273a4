"""For whom does a model work how well? A report by declared group, intersection, type and person.

    accelerate launch recipes/evaluate_fairness.py          # the embedded default, from nothing
    accelerate launch recipes/evaluate_fairness.py --model_path MODEL --baseline_path OTHER --dataset_name ROWS \
        --group_columns country age 'country*age' --output_dir out/fairness

A model is a PAL reward model, a reward model of TRL or transformers, a mixture, a fair policy, a PEFT adapter, or a
causal language model with `--reference_path`; which one, its files tell. Writes report.html, report.md, report.json,
scores.csv and summary.json into `--output_dir`. On several processes each scores its share of the rows.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from accelerate import PartialState
from transformers import set_seed

from palign.cli.errors import run
from palign.cli.library_log import keep_library_log
from palign.cli.parser import require_known_processes
from palign.cli.steps import STEPS, Steps
from palign.data.preferences import Preferences
from palign.data.synthetic_text import preference_rows
from palign.evaluation.evaluate import Evaluation, evaluate_models
from palign.evaluation.judging.conditioned_rows import conditioning_note
from palign.evaluation.judging.kinds import ModelSource
from palign.evaluation.judging.unseen_rows import UnseenRows, unseen_rows
from palign.evaluation.report import write_report
from palign.evaluation.scoring import scores_csv
from palign.parallel.deepspeed_launch import divide_loaded, prepare_deepspeed
from palign.pipelines.arguments.evaluation import (
    EvaluationArguments,
    parse_evaluation_arguments,
    rows_to_judge,
    sources_of,
)
from palign.pipelines.builtin_world import make_embedded_default, train_embedded_reward
from palign.pipelines.image_vectors import image_vectors, require_same_encoder
from palign.pipelines.own_baselines import own_baselines, with_baselines
from palign.pipelines.reports.facts import evaluation_facts
from palign.pipelines.reports.run_end import write_summary
from palign.writing import write_whole

N_TRAIN_EACH, N_ROWS_EACH = 30, 20  # rows of a person in the embedded default, to train on and to judge by


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Recognise the models, read the rows, score, report; returns what summary.json holds."""
    start = time.monotonic()
    script, data_args = parse_evaluation_arguments(argv)
    prepare_deepspeed(is_asked=False)
    state = PartialState(cpu=script.use_cpu)
    keep_library_log(script.output_dir)
    steps = Steps(STEPS["evaluate"])
    steps.next()
    require_known_processes(state.num_processes)
    set_seed(script.seed)
    vectors, groups = data_args.vectors(), []
    if script.model_path:
        sources = sources_of(script)
        rows, groups = rows_to_judge(data_args, None if vectors is None else len(vectors))
        if data_args.images is not None:
            vectors, encoder = image_vectors(data_args, [rows])
            for source in (*sources[0], *sources[1]):
                require_same_encoder(source.name, source.image_encoder, encoder)
    else:
        rows = embedded(script)
        state.wait_for_everyone()  # until the main process has saved the models
        sources = sources_of(script)
    unseen = unseen_rows([*sources[0], *sources[1]], rows, on_training_rows=script.on_training_rows)
    rows = unseen.rows
    for note in unseen.notes:
        state.print(note)
    notes = [*unseen.notes, *data_args.look_at(rows, embeddings=vectors)]
    judged, baselines, types = sources
    told = [note for source in (*judged, *baselines) if (note := conditioning_note(source, rows))]
    for note in told:
        state.print(note)
    steps.next()
    held = divide_loaded()
    evaluation = evaluate_models(
        [*judged, *baselines], rows, vectors=vectors, types_from=types, batch_size=script.batch_size,
        dtype=script.dtype, max_length=script.max_length,
    )  # fmt: skip
    if evaluation is None and held is None:
        return {}
    steps.next()
    own = own_baselines(script, data_args, rows, judged, vectors)  # divided models judge together
    if evaluation is None:
        return {}
    table = with_baselines(evaluation.table, own, rows)
    evaluation = replace(evaluation, table=table)
    told += [note for baseline in own for note in baseline.notes]
    names, sizes = [b.name for b in own], data_args.group_sizes()
    facts = evaluation_facts(rows, unseen, judged)
    return report(
        script, [*told, *notes], evaluation, sources[:2], groups, start, unseen, names, sizes=sizes, facts=facts
    )


def embedded(script: EvaluationArguments) -> Preferences:
    """Three types of people; a reward for each of them and one for all are trained; rows are on prompts unseen."""
    output = Path(script.output_dir)
    default = make_embedded_default(n_annotators=script.n_annotators, n_steps=script.lm_steps, seed=script.seed)
    for name, n_prototypes in {"pal": 3, "pooled": 1}.items():
        model = train_embedded_reward(
            default, str(output / name), n_prototypes=n_prototypes, n_per_annotator=N_TRAIN_EACH, seed=script.seed,
            use_cpu=script.use_cpu,
        )  # fmt: skip
        if PartialState().is_main_process:
            model.save_pretrained(output / name)
    script.model_path, script.baseline_path = [str(output / "pal")], [str(output / "pooled")]
    rows = preference_rows(
        default.population, n_per_annotator=N_ROWS_EACH, prompts=default.eval_prompts, seed=script.seed + 1
    )
    return Preferences.from_rows(rows)


def report(
    script: EvaluationArguments,
    notes: list[str],
    evaluation: Evaluation,
    sources: tuple[list[ModelSource], list[ModelSource]],
    groups: list[tuple[str, ...]],
    start: float,
    unseen: UnseenRows,
    own: Sequence[str] = (),
    *,
    sizes: Mapping[str, int],
    facts: Mapping[str, str],
) -> dict[str, float]:
    """scores.csv, the report (with what the guard said of the rows) and the summary; only the main process is here."""
    output, (judged, baselines), table = Path(script.output_dir), sources, evaluation.table
    output.mkdir(parents=True, exist_ok=True)
    metrics = script.metrics
    summary = {f"{name}/{m}": float(rows[m].mean()) for name, rows in table.groupby("model") for m in metrics}
    summary["n_training_rows_left_out"] = float(unseen.n_left_out)
    title = f"Fairness of {judged[0].name}" + (", on rows it was trained on" if unseen.has_training_rows else "")
    if "type" in table:
        grouped = table.groupby(["model", "type"])
        by_type = grouped[metrics[0]].mean()[grouped["annotator_id"].nunique() >= sizes["min_group_size"]]
        summary |= {f"{name}/worst_type_{metrics[0]}": float(v) for name, v in by_type.groupby("model").min().items()}
    written = write_report(
        table, output_dir=output, metrics=metrics, group_columns=groups, title=title,
        baseline=[*(source.name for source in baselines), *own], main=judged[0].name, figures=evaluation.figures,
        notes=[*notes, *(f"{source.name} is a {source.kind}: {source.path}" for source in (*judged, *baselines))],
        judgements=unseen.judgements, weights=script.weights, level=script.level, seed=script.seed,
        n_resamples=script.n_resamples, facts=facts, **sizes,
    )  # fmt: skip
    write_whole(output / "scores.csv", scores_csv(table, safe=script.safe_csv))
    summary["total_seconds"] = time.monotonic() - start
    write_summary(output, summary)
    opening = " ".join([*written.conclusion, written.headline[0]])
    print(f"\n{pd.Series(summary).round(3).to_string()}\n\n{opening}\nreport: {written.html_path}", flush=True)
    return summary


if __name__ == "__main__":
    sys.exit(run("evaluate_fairness.py", main))
