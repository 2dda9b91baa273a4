"""Run every command of README and of the pages' quick starts, as they stand, and say how long each took.

    python scripts/check_readme.py           # what runs in a minute or so each
    python scripts/check_readme.py --all     # also make demo, make test and the embedded defaults, minutes each

Commands run in a folder that looks like a checkout, with rows and a model of a reader's own made for the purpose:
`rows.jsonl`, the same as `judgements.csv`, and a tiny language model under the names that the pages use. The first
failure ends it. A block that is not to be run has `<!-- not run: why -->` on the line above it.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/index.md", "docs/guard.md", "docs/sources.md", "docs/pal_reward_trainer.md",
         "docs/ppo_trainer.md", "docs/grpo_trainer.md", "docs/mixture_dpo.md", "docs/fair_policy.md",
         "docs/fairness.md", "docs/integrations.md", "docs/serving.md", "docs/ask.md", "docs/metric.md",
         "docs/populations.md")  # fmt: skip
ALL_OF_IT = (
    "README.md",
    "docs/index.md",
)  # of the others the quick start; tests/test_extending.py runs docs/extending.md
BLOCK = re.compile(r"(?P<skip><!-- not run: .*? -->\n)?^```(?P<kind>bash|python)\n(?P<text>.*?)^```", re.M | re.S)
# a recipe that is given nothing is its embedded default
LONG = re.compile(r"^(make \w+|(accelerate launch|python) recipes/\w+\.py|palign (?!guard)\S+)$")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1",
}  # fmt: skip
LINKED = (
    "palign",
    "recipes",
    "accelerate_configs",
    "scripts",
    "docs",
    "Makefile",
    "pyproject.toml",
    "constraints.txt",
)
OWN_MODELS = ("FOLDER_OR_HUB_NAME", "MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
NAMES = """
import json

import pandas
from transformers import AutoModelForCausalLM, AutoTokenizer

rows = [json.loads(line) for line in open("rows.jsonl")]
prompts, completions = [row["prompt"] for row in rows[:4]], [row["chosen"] for row in rows[:4]]
annotator_ids = people = [row["annotator_id"] for row in rows[:4]]
pandas_frame = pandas.DataFrame({"prompt": prompts, "completion": completions, "annotator_id": annotator_ids})
rows_of_newcomers = [row | {"annotator_id": "new " + row["annotator_id"]} for row in rows[:8]]
rows_on_other_prompts = [row | {"prompt": "And now: " + row["prompt"]} for row in rows]
base = "FOLDER_OR_HUB_NAME"
model = AutoModelForCausalLM.from_pretrained(base)
tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
"""


@dataclass(frozen=True)
class Command:
    """Something a page tells the reader to run."""

    page: str
    kind: str
    text: str

    @property
    def is_long(self) -> bool:
        """Whether it takes minutes: a recipe that is given nothing, and what make runs."""
        return self.kind == "bash" and bool(LONG.match(self.text))


def commands_of(page: str, text: str) -> Iterator[Command]:
    """The lines of shell blocks and the Python blocks of a page, in order; comments are left out."""
    if page not in ALL_OF_IT:
        parts = re.split(r"^## Quick start$", text, flags=re.MULTILINE)
        text = parts[1].split("\n## ")[0] if len(parts) > 1 else ""
    for block in BLOCK.finditer(text):
        if block["skip"]:
            continue
        if block["kind"] == "python":
            yield Command(page, "python", block["text"])
            continue
        for line in block["text"].replace("\\\n", " ").splitlines():
            bare = re.sub(r"\s+", " ", re.sub(r"(^|\s)# .*", "", line)).strip()
            if bare:
                yield Command(page, "bash", bare)


def make_folder(folder: Path) -> None:
    """A checkout's look, `rows.jsonl` and `judgements.csv` of two opposite tastes, and a tiny language model."""
    import pandas as pd

    from palign.data.synthetic_text import language_model_rows, make_prompts, make_text_population, preference_rows
    from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer, train_tiny_lm

    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    people = make_text_population(20, types=("cheerful", "careful"), shares=(0.5, 0.5), seed=0)
    rows = preference_rows(people, n_per_annotator=12, prompts=make_prompts(), seed=0)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            own = {key: row[key] for key in ("annotator_id", "prompt", "type")}
            own |= {"chosen": f" {row['chosen']}", "rejected": f" {row['rejected']}"}
            file.write(json.dumps(own | {"country": ("PL", "PT")[number // 12 % 2]}) + "\n")
    pd.read_json(folder / "rows.jsonl", lines=True).to_csv(folder / "judgements.csv", index=False)
    said = language_model_rows(400, seed=0)
    texts = [[row["prompt"] for row in said], [f" {row['completion']}" for row in said]]
    tokenizer = make_tiny_tokenizer([*texts[0], *texts[1]])
    model = make_tiny_lm(tokenizer, hidden_size=32, n_layers=2, n_heads=2, seed=0)
    train_tiny_lm(model, tokenizer, *texts, n_steps=20, seed=0, show_progress=False)
    for name in OWN_MODELS:
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name, made in {"mixture_dpo": "out/em_dpo", "my_pal_reward": "out/pal"}.items():
        (folder / name).symlink_to(folder / made)  # the README makes them first


def run(command: Command, folder: Path, limit: float) -> tuple[bool, float, str]:
    """Whether it ended well, seconds, and what it said."""
    start = time.monotonic()
    if command.kind == "python":
        given = NAMES if "\nrows = " not in command.text else ""
        line = [sys.executable, "-c", given + command.text]
    else:
        line = ["bash", "-c", command.text]
    where = ROOT if command.text.startswith("make ") else folder
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | ENVIRONMENT | {"PATH": path, "PYTHONPATH": str(folder)}
    try:
        done = subprocess.run(line, cwd=where, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return False, time.monotonic() - start, f"not done after {limit:.0f} s"
    return done.returncode == 0, time.monotonic() - start, done.stdout[-2000:] + done.stderr[-4000:]


def main(argv: list[str] | None = None) -> int:
    """Run them; 1 at the first failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="also what takes minutes")
    parser.add_argument("--page", action="append", help="this page alone; may be given several times")
    parser.add_argument("--limit", type=float, default=1800, help="seconds that one command may take")
    args = parser.parse_args(argv)
    pages = [page for page in args.page or PAGES if (ROOT / page).is_file()]
    commands = [c for page in pages for c in commands_of(page, (ROOT / page).read_text(encoding="utf-8"))]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_folder(folder)
        for command in commands:
            shown = command.text if command.kind == "bash" else "Python: " + command.text.strip().splitlines()[0]
            if command.is_long and not args.all:
                print(f"{'left':>8}    {command.page}: {shown}", flush=True)
                continue
            is_ok, seconds, said = run(command, folder, args.limit)
            print(f"{seconds:6.1f} s {'ok' if is_ok else 'FAILED'}  {command.page}: {shown}", flush=True)
            if not is_ok:
                print(said, file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
