"""recipes/grpo_pal.py end to end on the smoke configuration, on a user's own model and rows, and on bad input."""

import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.worlds.recipes import finite, load_recipe, save_own

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "grpo_pal" / "smoke.yaml")
QUICK = ["--use_cpu", "true", "--disable_tqdm", "true", "--per_device_train_batch_size", "8", "--num_generations", "4"]
QUICK += ["--max_steps", "4", "--logging_steps", "1", "--max_completion_length", "4"]


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("grpo_pal")


def own(folder: Path, **kind: bool) -> list[str]:
    """The flags that say what is the user's, and quick ones."""
    return [*save_own(folder, folder / "out", **kind), *QUICK]


@pytest.mark.parametrize("algorithm", ["grpo", pytest.param("rloo", marks=pytest.mark.slow)])
def test_the_embedded_default_runs_from_nothing_to_a_report(
    recipe: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], algorithm: str
) -> None:
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path), "--algorithm", algorithm])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert finite(summary)
    for name in ("reference", "none", "prompt"):
        for metric in ("gold", "reward", "kl"):
            assert f"{name}/{metric}" in summary and f"{name}/careful/{metric}" in summary
    assert summary["reference/kl"] == pytest.approx(0.0, abs=1e-5)
    assert summary["prompt/n_updates"] == 4.0  # two on each generation
    said = capsys.readouterr().out
    assert str(tmp_path / "report.html") in said.splitlines()[-1]
    assert "after update 1\nperson" in said  # the sample table
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Policies trained with {algorithm.upper()}" in page
    samples = pd.read_json(tmp_path / "samples.jsonl", lines=True)
    assert len(samples) == 3 * 24 and set(samples["type"]) == {"cheerful", "thorough", "careful"}
    history = pd.read_csv(tmp_path / "prompt" / "history.csv")
    assert {"objective/reward", "objective/raw_reward", "objective/gold", "objective/kl"} <= set(history)
    assert (tmp_path / "prompt" / "adapter_model.safetensors").exists()


def test_own_model_reward_and_rows_with_adapters_of_which_each_gets_its_share(
    recipe: ModuleType, tmp_path: Path
) -> None:
    lora = ["--use_peft", "true", "--lora_target_modules", "all-linear"]
    summary = recipe.main([*own(tmp_path), *lora, "--policy_conditioning", "adapter", "--compare_with", "prompt"])
    assert finite(summary) and "adapter/reward" in summary and "adapter/gold" not in summary
    assert (summary["adapter/n_updates"], summary["prompt/n_updates"]) == (4.0, 4.0)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    loaded = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter" / "type_1")
    assert loaded.peft_config["default"].r == 16
    samples = pd.read_json(tmp_path / "out" / "samples.jsonl", lines=True)
    assert set(samples["country"]) == {"IE"} and set(samples["model"]) == {"reference", "prompt", "adapter"}


def test_own_model_trained_whole_and_resumed(recipe: ModuleType, tmp_path: Path) -> None:
    """The run is done when it is started again: it goes on from its last checkpoint and adds nothing."""
    flags = [*own(tmp_path), "--learning_rate", "1e-2", "--save_strategy", "steps", "--save_steps", "2"]
    summary = recipe.main(flags)
    assert finite(summary) and summary["prompt/kl"] != 0.0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "prompt")
    again = recipe.main([*flags, "--resume_from_checkpoint", "true"])
    assert again["prompt/kl"] == pytest.approx(summary["prompt/kl"], abs=1e-6)
    assert again["prompt/reward"] == pytest.approx(summary["prompt/reward"], abs=1e-6)


def test_message_rows_reach_a_report(recipe: ModuleType, tmp_path: Path) -> None:
    """Beside the reference that is shown what people chose before."""
    flags = own(tmp_path, messages=True)
    asked = [{"role": "user", "content": "what else?"}]
    said = {name: [{"role": "assistant", "content": text}] for name, text in (("chosen", "a"), ("rejected", "b"))}
    rows = [{"worker": person, "question": asked, "country": "IE"} | said for person in range(40)]
    (tmp_path / "earlier.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    summary = recipe.main([*flags, "--earlier_dataset_name", str(tmp_path / "earlier.jsonl")])
    assert finite(summary) and {"reference/reward", "in context/reward", "in context/kl"} <= set(summary)
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "in context is the reference with up to 1 earlier choices of the person in its prompt" in report
    samples = pd.read_json(tmp_path / "out" / "samples.jsonl", lines=True)
    assert samples["prompt"][0][0]["role"] == "user" and isinstance(samples["completion"][0], str)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--annotator_column", "rater"), r"row 0: there is no column 'rater'"),
        (("--reward_model_path", "./empty"), "empty"),
        (("--dataset_name", "./nowhere.jsonl"), "nowhere.jsonl"),
        (("--model_name_or_path", "nolm"), "model_name_or_path is 'nolm', which could not be loaded"),
        (("--reward_model_path", "out/nopal"), "--reward_model_path: 'out/nopal' is no folder here"),
    ],
)
def test_bad_input_is_found_before_a_policy_loads(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], message: str
) -> None:
    flags = own(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *a, **k: pytest.fail("a policy was loaded"))
    flags[flags.index(change[0]) + 1] = change[1]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.main(flags)
