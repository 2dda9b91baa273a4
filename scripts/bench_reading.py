"""Time and memory of reading: a million rows of CSV as pairs, by this code and by another checkout's, and as two
answers
with a winner.

    python scripts/bench_reading.py [--rows 1000000] [--against OTHER_CHECKOUT]

Every reading runs in a process of its own; times are of the processor, the peak is what the operating system saw.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

READ = """
import json, resource, sys, time
from palign.data.loading import load_preferences
start = time.process_time()
prefs = load_preferences(sys.argv[1], **json.loads(sys.argv[2]))
seconds = time.process_time() - start
print(json.dumps({"rows": len(prefs), "seconds": seconds,
                  "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}))
"""
WINNER = {"annotator_column": "rater", "prompt_column": "question", "first_column": "answer_a",
          "second_column": "answer_b", "winner_column": "winner"}  # fmt: skip


def write_files(folder: Path, n_rows: int) -> tuple[Path, Path]:
    """The same answers as pairs, and as two answers with a winner; a thousand people."""
    pairs, winners = folder / "pairs.csv", folder / "winners.csv"
    with pairs.open("w") as p, winners.open("w") as w:
        p.write("annotator_id,prompt,chosen,rejected,country,age_band\n")
        w.write("rater,question,answer_a,answer_b,winner,country,age_band\n")
        for i in range(n_rows):
            who, asked = f"r{i % 1000}", f"What would you answer to question {i % 50_000}?"
            a, b = f"Answer {i}: seven minutes in boiling water.", f"Answer {i}: ten minutes, and then cold water."
            group = f"{'NL BE PL'.split()[i % 3]},{20 + i % 5 * 10}-{29 + i % 5 * 10}"
            p.write(f'{who},{asked},{a},"{b}",{group}\n')
            w.write(f'{who},{asked},{a},"{b}",{"AB"[i % 2]},{group}\n')
    return pairs, winners


def measured(file: Path, options: dict[str, str], checkout: Path) -> dict[str, float]:
    """Rows, seconds and peak of reading one file by one checkout."""
    env = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-c", READ, str(file), json.dumps(options)]
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--against", type=Path, help="another checkout of palign, for the ratio")
    args = parser.parse_args()
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        pairs, winners = write_files(Path(folder), args.rows)
        now = measured(pairs, {}, here)
        print(f"pairs: {now['rows']:,.0f} rows in {now['seconds']:.1f} s, peak {now['peak_gib']:.2f} GiB", flush=True)
        if args.against is not None:
            before = measured(pairs, {}, args.against)
            ratio = now["seconds"] / before["seconds"]
            print(
                f"before: {before['seconds']:.1f} s, peak {before['peak_gib']:.2f} GiB; ratio {ratio:.2f}", flush=True
            )
        won = measured(winners, WINNER, here)
        print(
            f"two answers and a winner: {won['rows']:,.0f} rows in {won['seconds']:.1f} s, peak "
            f"{won['peak_gib']:.2f} GiB"
        )


if __name__ == "__main__":
    main()
