"""How many people stand where, from one answer each (Tatli, Nowak and Vinayak, AISTATS 2024).

    python recipes/population.py                                                  # the embedded default, seconds
    python recipes/population.py --dataset_name ROWS --embeddings PLACES.npy      # places (n, 1) of the items
    python recipes/population.py --dataset_name ROWS --chosen_position_column A --rejected_position_column B
    python recipes/population.py --dataset_name ROWS --embeddings V.npy --bounds true  # more than one dimension

Writes into `--output_dir`: masses.csv, masses.svg, report.md and summary.json.
"""

import sys
from pathlib import Path

from palign.cli.errors import run
from palign.cli.steps import STEPS, Steps
from palign.pipelines.arguments.population import parse_population_arguments
from palign.pipelines.population import cell_table, mass_table, read_answers
from palign.pipelines.reports.population import mass_page, mass_picture
from palign.pipelines.reports.run_end import write_summary
from palign.writing import write_whole


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Count people by cell, with intervals; returns what summary.json holds."""
    script, data_args = parse_population_arguments(argv)
    steps = Steps(STEPS["population"])
    steps.next()
    answers = read_answers(script, data_args)
    steps.next()
    result = (mass_table if answers.dim == 1 else cell_table)(answers, script)
    output = Path(script.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "masses.csv", result.table.to_csv(index=False))
    write_whole(output / "masses.svg", mass_picture(result.table))
    write_whole(output / "report.md", mass_page(result.table, result.notes, "Where people stand", script.level))
    write_summary(output, result.summary)
    print(f"\n{result.table.round(3).to_string(index=False)}\n\nreport: {output / 'report.md'}", flush=True)
    return result.summary


if __name__ == "__main__":
    sys.exit(run("population.py", main))
