"""recipes/em_dpo.py end to end: the smoke configuration, rows and models of one's own, and bad input."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.models.mixture_policy import MixturePolicy
from tests.worlds.colour import colour_lm, colour_tokenizer, planted_rows
from tests.worlds.recipes import load_recipe

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "em_dpo" / "smoke.yaml")
QUIET = ["--disable_tqdm", "true", "--use_cpu", "true"]
NAMES = ("../../up", "ü <script>alert(1)</script>", "a|b `c`", "![x](http://e.vil/p.png)", "7", "{n_types}", "#1", "z")
CHAT = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("em_dpo")


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has a chat template and, as many do, no pad token."""
    path = tmp_path_factory.mktemp("models") / "lm"
    colour_lm().save_pretrained(path)
    colour_tokenizer().save_pretrained(path)
    words = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    words["chat_template"] = CHAT
    words.pop("pad_token")
    (path / "tokenizer_config.json").write_text(json.dumps(words), encoding="utf-8")
    return path


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Ids that could hurt; the number 7 as a number."""
    given = [int(name) if name.isdigit() else name for name in NAMES]
    return [row | {"annotator_id": given[int(row["annotator_id"][1:])]} for row in rows]


def own(folder: Path, lm: Path, rows: list[dict[str, Any]], *further: str) -> list[str]:
    return [
        "--dataset_name", write(folder / "rows.jsonl", rows), "--model_name_or_path", str(lm), "--n_types", "2",
        "--output_dir", str(folder / "out"), "--lora_r", "2", "--learning_rate", "1e-2", "--max_steps", "4",
        "--per_device_train_batch_size", "8", "--n_restarts", "2", "--n_permutations", "0", "--head_dim", "8",
        "--n_sample_prompts", "2", "--max_new_tokens", "4", "--logging_steps", "2", *QUIET, *further,
    ]  # fmt: skip


def finite(summary: dict[str, float]) -> bool:
    return all(isinstance(value, float) and np.isfinite(value) for value in summary.values())


def test_the_smoke_config_goes_from_nothing_to_a_report(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(out), *QUIET])
    assert summary == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert finite(summary)
    wanted = {"n_types", "types/ari", "types/accuracy", "training_seconds", "em/training_seconds"}
    models, metrics = ("pooled", "cluster", "oracle", "linear start", "em"), ("accuracy", "log_likelihood")
    wanted |= {f"{model}/{metric}" for model in models for metric in metrics}
    assert wanted <= set(summary) and summary["n_types"] == 2.0
    assert str(out / "report.html") in capsys.readouterr().out.splitlines()[-1]
    table = pd.read_csv(out / "scores.csv")
    assert set(table["model"]) == {"pooled", "cluster", "oracle", "linear start", "em"}
    for name, part in table.groupby("model"):
        assert part["accuracy"].mean() == pytest.approx(summary[f"{name}/accuracy"])
    for file in ("mixture.json", "responsibilities.parquet", "README.md", "samples.md", "report.json"):
        assert (out / file).is_file(), file
    assert [len(json.loads((out / "mixture.json").read_text())["rounds"])] == [2]
    loaded = MixturePolicy.from_pretrained(out)
    assert loaded.n_types == 2 and len(loaded.record.annotators) == 8
    said = loaded.generate(["Tell me"], annotator_ids=[loaded.record.annotators.ids[0]], max_new_tokens=3)
    assert len(said) == 1
    for name in ("pooled", "oracle"):  # found again from their own folders
        MixturePolicy.from_pretrained(out / "baselines" / name)


def test_own_rows_with_names_that_could_hurt(recipe: ModuleType, tmp_path: Path, lm: Path, capsys) -> None:
    rows = named(planted_rows(8, 6, n_items=4))
    for row in rows:
        row["persona"] = f"<b>{row.pop('type')}</b>"
        row["country"] = "[A](http://e.vil)"
        if row["annotator_id"] == 7:  # ratings with ties, in any order
            row["ratings"] = [5, 4, 4, 1]
    further = ("--type_column", "persona", "--group_columns", "country", "--baselines", "oracle")
    summary = recipe.main(own(tmp_path, lm, rows, *further))
    out = tmp_path / "out"
    assert finite(summary) and "oracle/<b>w</b>/accuracy" in summary and "types/ari" in summary
    assert {path.name for path in tmp_path.iterdir()} == {"rows.jsonl", "out"}
    people = pd.read_parquet(out / "responsibilities.parquet")
    assert people["annotator_id"].tolist() == list(NAMES)
    for page in ("report.md", "samples.md", "README.md"):
        text = (out / page).read_text(encoding="utf-8")
        assert "<script" not in text and "](http" not in text and "<b>" not in text, page
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "By country" in report
    base = AutoModelForCausalLM.from_pretrained(lm)
    assert PeftModel.from_pretrained(base, out / "type_1").peft_config["default"].r == 2
    newcomer = [{k: v for k, v in row.items() if k != "persona"} for row in rows if row["annotator_id"] == 7]
    found = MixturePolicy.from_pretrained(out).posterior(newcomer)
    assert found.annotators.ids == ["7"] and found.n_rows.tolist() == [6]


def test_conversations(recipe: ModuleType, tmp_path: Path, lm: Path) -> None:
    rows = planted_rows(4, 10)
    for row in rows:
        row["prompt"] = [{"role": "user", "content": row["prompt"]}]
        for name in ("chosen", "rejected"):
            row[name] = [{"role": "assistant", "content": row[name]}]
    summary = recipe.main(own(tmp_path, lm, rows, "--sft_epochs", "1", "--rpo_alpha", "1"))
    assert finite(summary)
    out = tmp_path / "out"
    samples = (out / "samples.md").read_text(encoding="utf-8")
    table = [line for line in samples.splitlines() if line.startswith("| ")]
    assert len(table) == 2 and table[1].startswith("| what colour")  # as typed; one prompt of six is held out
    record = json.loads((out / "mixture.json").read_text(encoding="utf-8"))
    assert record["base_model"] is None and record["reference"]["warm_start"]["epochs"] == 1
    assert "after a warm start: 1 epoch" in (out / "report.md").read_text(encoding="utf-8")
    assert MixturePolicy.from_pretrained(out).n_types == record["n_types"]


def test_rows_without_prompts_and_strangers_to_judge_by(recipe: ModuleType, tmp_path: Path, lm: Path) -> None:
    rows = [{k: v for k, v in row.items() if k not in ("prompt", "type")} for row in planted_rows(4, 8)]
    strangers = [row | {"annotator_id": 10 + i % 2} for i, row in enumerate(rows[:6])]
    known = rows[:4]
    judged = write(tmp_path / "eval.jsonl", strangers + known)
    summary = recipe.main(own(tmp_path, lm, rows, "--eval_dataset_name", judged, "--guard", "warn"))
    assert finite(summary) and "types/ari" not in summary
    table = pd.read_csv(tmp_path / "out" / "scores.csv")
    assert len(table[table["model"] == "em"]) == 10


def test_going_on_from_the_last_round(recipe: ModuleType, tmp_path: Path, lm: Path) -> None:
    flags = own(tmp_path, lm, planted_rows(4, 8), "--max_steps", "2", "--baselines", "pooled", "drawn_beta")
    first = recipe.main(flags)
    trained = (tmp_path / "out" / "baselines" / "pooled" / "mixture.json").stat().st_mtime_ns
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "is one DPO for all that reads no names" in report and "standard deviation 0.5" in report
    for model in ("pooled", "drawn_beta", "em"):
        assert f"| {model} " in report, model
    again = recipe.main([*flags, "--resume_from_checkpoint", "true"])
    assert again["drawn_beta/log_likelihood"] == first["drawn_beta/log_likelihood"]
    assert (tmp_path / "out" / "baselines" / "pooled" / "mixture.json").stat().st_mtime_ns == trained  # read back
    assert again["pooled/accuracy"] == first["pooled/accuracy"]
    assert again["em/accuracy"] == first["em/accuracy"]
    assert again["em/log_likelihood"] == pytest.approx(first["em/log_likelihood"], abs=1e-6)


GOOD = planted_rows(4, 6)


@pytest.mark.parametrize(
    ("change", "further", "words"),
    [
        ({"annotator_id": None}, [], ["row 24", "annotator_id"]),
        ({"chosen": 5}, [], ["row 24", "chosen"]),
        ({"rejected": GOOD[0]["chosen"], "chosen": GOOD[0]["chosen"]}, [], ["row 24", "the same"]),
        ({"chosen": None, "rejected": None, "completions": ["x"]}, [], ["row 24", "completions", "two"]),
        ({"chosen": None, "rejected": None, "completions": ["x", "y", "x"]}, [], ["row 24", "completions", "0 and 2"]),
        ({"chosen": None, "rejected": None, "completions": ["x", "y"], "ratings": [1]}, [], ["row 24", "ratings"]),
        ({"type": "other"}, [], ["row 24", "type", "one type"]),
        ({}, ["--annotator_column", "rater"], ["rater"]),
        ({}, ["--n_types", "9"], ["n_types is 9", "4 annotators"]),
        ({}, ["--model_name_or_path", "./nowhere"], ["./nowhere", "no such folder"]),
        ({}, ["--resume_from_checkpoint", "./checkpoint-9"], ["checkpoint-9", "not a complete checkpoint"]),
        ({}, ["--dataset_name", "./nowhere.jsonl"], ["nowhere.jsonl"]),
    ],
)
def test_bad_input_names_its_place_before_a_model_loads(
    recipe: ModuleType, tmp_path: Path, lm: Path, monkeypatch, change: dict, further: list[str], words: list[str]
) -> None:
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("a model was loaded"))
    rows = [*GOOD, {k: v for k, v in (GOOD[0] | change).items() if v is not None}]
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as caught:
        recipe.main(own(tmp_path, lm, rows, *further))
    message = str(caught.value)
    assert all(word.lower() in message.lower() for word in words), message
    assert "\n\n" not in message
    assert not (tmp_path / "out").exists()


def test_a_damaged_line_is_named(recipe: ModuleType, tmp_path: Path, lm: Path) -> None:
    flags = own(tmp_path, lm, GOOD)
    with open(tmp_path / "rows.jsonl", "a", encoding="utf-8") as file:
        file.write('{"annotator_id": 1, "prompt": \n')
    with pytest.raises(ValueError, match="rows.jsonl, line 25 .*not JSON"):
        recipe.main(flags)
