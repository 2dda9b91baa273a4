"""recipes/pal_reward.py end to end: embedded default, own text, own vectors, and bad input before any model."""

import json
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from palign.data.guard import GuardError
from palign.models.pal import PALRewardModel
from tests.worlds.judged_models import write_rows
from tests.worlds.ppo_policy import tiny_policy
from tests.worlds.recipes import load_recipe

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "pal_reward" / "smoke.yaml")
QUIET = ["--disable_tqdm", "true", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("pal_reward")


def text_rows(n_people: int = 6, n_rows: int = 8) -> list[dict]:
    """Half the people like short answers, half like long ones."""
    rows = []
    for person in range(n_people):
        for number in range(n_rows):
            short, long = (
                f"the park is {'old new full near'.split()[number % 4]}.",
                "the park is old and near and full.",
            )
            pair = (short, long) if person % 2 else (long, short)
            ids = ("a.b/c", "ü <script>", "7", "x y", "q", "z")
            rows.append({"annotator_id": ids[person], "prompt": f"Tell me about {number}.", "chosen": pair[0],
                         "rejected": pair[1], "country": ["A", "B"][person % 2]})  # fmt: skip
    return rows


def test_the_smoke_config_goes_from_nothing_to_a_report(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path), *QUIET])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert all(isinstance(value, float) and np.isfinite(value) for value in summary.values())
    assert {"pal/accuracy", "pooled/accuracy", "pal/worst_type_accuracy", "newcomers/5/accuracy"} <= set(summary)
    assert str(tmp_path / "report.html") in capsys.readouterr().out.splitlines()[-1]
    table = pd.read_csv(tmp_path / "scores.csv")
    assert table[table.model == "pal"]["accuracy"].mean() == pytest.approx(summary["pal/accuracy"])
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["settings"]["metrics"] == ["accuracy", "log_likelihood"]  # rewards of two models share no scale
    assert report["figures"]["type_space"]["names"] == ["prototype_0", "prototype_1", "prototype_2"]


def test_own_text_rows_on_a_local_backbone(recipe: ModuleType, tmp_path: Path) -> None:
    policy, tokenizer = tiny_policy()
    policy.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    rows = write_rows(tmp_path / "rows.jsonl", text_rows())
    flags = ["--dataset_name", rows, "--model_name_or_path", str(tmp_path / "lm"), "--n_prototypes", "2"]
    flags += ["--group_columns", "country", "--embedding_cache_dir", str(tmp_path / "cache"), "--guard", "warn"]
    summary = recipe.main([*flags, "--output_dir", str(tmp_path / "out"), *QUIET])
    assert summary["pal/accuracy"] > summary["pooled/accuracy"]
    assert PALRewardModel.from_pretrained(tmp_path / "out" / "pooled").n_prototypes == 1
    model = PALRewardModel.from_pretrained(tmp_path / "out")
    scores = model.score(
        ["Tell me about 3."] * 2, ["the park is old.", "the park is old and near and full."], ["7", "7"]
    )
    assert scores.shape == (2,)
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "By country" in report and "<script>" not in report


def test_states_are_chosen_said_and_saved(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    policy, tokenizer = tiny_policy()
    policy.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    rows = [row | {"annotator_id": f"{row['annotator_id']}{copy}"} for copy in "ab" for row in text_rows()]
    paths = [write_rows(tmp_path / f"{part}.jsonl", part_rows) for part, part_rows in
             (("train", rows[::2]), ("eval", rows[1::2]))]  # fmt: skip
    flags = ["--dataset_name", paths[0], "--eval_dataset_name", paths[1], "--guard", "off", "--n_prototypes", "2"]
    flags += ["--model_name_or_path", str(tmp_path / "lm"), "--output_dir", str(tmp_path / "out"), *QUIET]
    recipe.main([*flags, "--scaling", "unit", "--head_min_steps", "50"])
    printed = capsys.readouterr().out
    assert (
        "note: The vector of a completion is the" in printed and "annotators held out (nats an answer: this" in printed
    )
    assert "The vector of a completion is the" in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["scaling"] == "unit" and config["pooling"] in ("completion", "completion_last")
    model = PALRewardModel.from_pretrained(tmp_path / "out")
    assert model.backbone.kind == (config["layer"], config["pooling"])
    row = rows[1]
    chosen, rejected = model.score([row["prompt"]] * 2, [row["chosen"], row["rejected"]], [row["annotator_id"]] * 2)
    table = pd.read_csv(tmp_path / "out" / "scores.csv", dtype={"annotator_id": str})
    first = table[(table.model == "pal") & (table.row == 0)]
    assert first.annotator_id.item() == row["annotator_id"]
    margin = float(chosen - rejected)
    assert first.log_likelihood.item() == pytest.approx(-np.log1p(np.exp(-margin)), abs=1e-4)


def test_rows_that_show_nothing_stop_before_a_model_is_loaded(recipe: ModuleType, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("palign.models.backbones.Backbone.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    (tmp_path / "lm").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (tmp_path / "lm" / name).write_text("{}", encoding="utf-8")
    flags = ["--dataset_name", write_rows(tmp_path / "rows.jsonl", text_rows()), "--n_prototypes", "2", *QUIET]
    with pytest.raises(GuardError, match=r"guard: stop: length_sign: .*\(rows 0, .* of train, …\)"):
        recipe.main([*flags, "--model_name_or_path", str(tmp_path / "lm"), "--output_dir", str(tmp_path / "out")])


def test_own_vectors(recipe: ModuleType, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(40, 6)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    rows = []
    for person in range(8):
        for _ in range(20):
            i, j = rng.choice(40, size=2, replace=False)
            first = (vectors[i, person % 2] > vectors[j, person % 2]).item()
            rows.append({"annotator_id": person, "chosen_index": int(i if first else j),
                         "rejected_index": int(j if first else i)})  # fmt: skip
    flags = ["--dataset_name", write_rows(tmp_path / "rows.jsonl", rows), "--embeddings", str(tmp_path / "v.npy")]
    summary = recipe.main([*flags, "--n_prototypes", "2", "--output_dir", str(tmp_path / "out"), *QUIET])
    assert summary["pal/accuracy"] > 0.7


def test_messages_without_a_chat_template_are_told_before_a_model_loads(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, tokenizer = tiny_policy()
    policy.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    monkeypatch.setattr("palign.models.backbones.Backbone.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    said = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    rows = [{"annotator_id": i % 4, "prompt": [{"role": "user", "content": f"{i}"}], **said} for i in range(40)]
    flags = [
        "--dataset_name",
        write_rows(tmp_path / "rows.jsonl", rows),
        "--n_prototypes",
        "2",
        "--guard",
        "off",
        *QUIET,
    ]
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        recipe.main([*flags, "--model_name_or_path", str(tmp_path / "lm"), "--output_dir", str(tmp_path / "out")])


GOOD = {"annotator_id": "a", "prompt": "p", "chosen": "x", "rejected": "y"}
FEW = [GOOD | {"annotator_id": str(i % 15), "prompt": f"p{i}"} for i in range(150)]


@pytest.mark.parametrize(
    ("rows", "flags", "words"),
    [
        ([GOOD, GOOD | {"annotator_id": ""}], [], ["Row 1", "annotator_id"]),
        ([GOOD] * 7312 + [GOOD | {"chosen": 5}], [], ["7312", "chosen"]),
        ([GOOD, GOOD | {"rejected": "x"}], [], ["Row 1", "chosen"]),
        ([], [], ["empty"]),
        ([GOOD, GOOD | {"annotator_id": "b"}], ["--n_prototypes", "3"], ["3", "2 annotators"]),
        ([GOOD], ["--n_prototypes", "many"], ["many", "auto"]),
        (FEW, ["--n_prototypes", "auto", "--guard", "off"], ["needs 16 annotators", "there are 15"]),
        ([GOOD], ["--annotator_column", "worker"], ["worker"]),
        ([GOOD], ["--group_columns", "country"], ["country"]),
    ],
    ids=["id", "type", "equal", "empty", "K", "K-word", "K-auto", "column", "group"],
)
def test_bad_input_is_named_before_a_model_loads(
    recipe: ModuleType, tmp_path: Path, monkeypatch, rows: list[dict], flags: list[str], words: list[str]
) -> None:
    folder = tmp_path / "lm"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}", encoding="utf-8")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded before the rows were checked")

    monkeypatch.setattr("palign.models.backbones.Backbone.from_pretrained", never)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    start = time.monotonic()
    with pytest.raises((ValueError, TypeError)) as caught:
        recipe.main(["--dataset_name", path, "--model_name_or_path", str(folder), *flags, *QUIET])
    message = str(caught.value)
    assert all(word.lower() in message.lower() for word in words), message
    assert "\n\n" not in message and time.monotonic() - start < 30


def test_a_folder_that_is_not_a_model(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    path = write_rows(tmp_path / "rows.jsonl", [GOOD])
    with pytest.raises(ValueError, match="notes.*config.json"):
        recipe.main(["--dataset_name", path, "--model_name_or_path", str(tmp_path / "notes"), *QUIET])


def test_an_unknown_flag_or_key_is_an_error(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("n_prototype: 3\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        recipe.main(["--config", str(config), *QUIET])
    assert "n_prototype is no option (did you mean n_prototypes?)" in capsys.readouterr().err
