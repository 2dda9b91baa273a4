"""Which comparison next: the pairs whose answers tell most about a newcomer, or about a whole panel.

    palign ask --model_path out/pal --dataset_name rows.jsonl --annotators ana ben --output_dir asked
    palign ask --model_path out/pal --dataset_name rows.jsonl --answers_name asked/questions.csv --output_dir asked_2

Writes questions.csv. People write `first`, `second` or `tie` into its column `winner`; the second line reads that file
and chooses what to ask next. The rows are those with completions that may be shown; who judged them is not looked at.
"""

import sys
from pathlib import Path

from palign.cli.errors import run
from palign.cli.steps import STEPS, Steps
from palign.models.pal import PALRewardModel
from palign.pipelines.arguments.ask import parse_ask_arguments
from palign.pipelines.ask import candidate_pairs, given_answers, question_sheet, with_answers
from palign.pipelines.image_vectors import image_vectors, require_same_encoder
from palign.pipelines.reports.run_end import write_summary
from palign.questions import next_questions
from palign.writing import write_whole


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Read rows and answers, choose, write the sheet; returns what summary.json holds."""
    script, data = parse_ask_arguments(argv)
    steps = Steps(STEPS["ask"])
    steps.next()
    embeddings = data.vectors()
    pairs = candidate_pairs(script, data, embeddings)
    answers = given_answers(script, data, embeddings)
    if data.images is not None:
        embeddings, encoder = image_vectors(data, [pairs, answers.rows])
    people = list(dict.fromkeys(script.annotators)) or answers.ids or ["newcomer"]
    model = PALRewardModel.from_pretrained(script.model_path)
    if data.images is not None:
        require_same_encoder(script.model_path, model.config.image_encoder, encoder)
    steps.next()
    chosen = next_questions(
        model, pairs, script.n_questions, annotator_ids=people, answers=answers.rows, asked=answers.asked,
        together=script.together, embeddings=embeddings, seed=script.seed, show_progress=True,
    )  # fmt: skip
    information = [float(choice.information.sum()) for choice in chosen.values()]
    summary = {
        "n_people": len(people),
        "n_pairs": len(pairs),
        "n_questions": sum(len(choice.indices) for choice in chosen.values()),
        "n_answers": 0 if answers.rows is None else len(answers.rows),
        "information": sum(information) / len(information),
    }
    if script.save_path is not None and answers.rows is not None:
        added = with_answers(model, answers.rows, embeddings)
        model.save_pretrained(script.save_path)
        print(f"{len(added)} people are added to the model: {script.save_path}")
    folder = Path(script.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "questions.csv", question_sheet(chosen, pairs, data))
    write_summary(folder, summary)
    print(
        f"{summary['n_questions']} questions out of {len(pairs):,} pairs, for {len(people)} "
        f"{'person' if len(people) == 1 else 'people'}{' together' if script.together else ''}. The answers of one "
        f"person are expected to tell {summary['information']:.2f} nats about their weights.\n"
        f"Write first, second or tie into the column winner: {folder / 'questions.csv'}"
    )
    return summary


if __name__ == "__main__":
    sys.exit(run("ask.py", main))
