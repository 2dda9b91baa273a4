"""recipes/ppo_pal.py end to end on the smoke configuration, on a user's own model and rows, and on bad input."""

import json
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.models.pal import PALRewardModel
from tests.worlds.recipes import finite, load_recipe, save_own

ROOT = Path(__file__).parents[2]
SMOKE = str(ROOT / "recipes" / "configs" / "ppo_pal" / "smoke.yaml")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    return load_recipe("ppo_pal")


def test_the_embedded_default_runs_from_nothing_to_a_report(recipe: ModuleType, tmp_path: Path, capsys) -> None:
    summary = recipe.main(["--config", SMOKE, "--output_dir", str(tmp_path)])
    assert summary == json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert finite(summary)
    for name in ("reference", "none", "prompt"):
        for metric in ("gold", "reward", "kl"):
            assert f"{name}/{metric}" in summary and f"{name}/careful/{metric}" in summary
    assert summary["reference/kl"] == pytest.approx(0.0, abs=1e-5)
    assert summary["prompt/n_updates"] == 8
    assert str(tmp_path / "report.html") in capsys.readouterr().out.splitlines()[-1]
    samples = pd.read_json(tmp_path / "samples.jsonl", lines=True)
    assert len(samples) == 3 * 24 and set(samples["type"]) == {"cheerful", "thorough", "careful"}
    assert samples.groupby("model")["gold"].mean()["prompt"] == pytest.approx(summary["prompt/gold"])
    history = pd.read_csv(tmp_path / "prompt" / "history.csv")
    assert {"objective/reward", "objective/gold", "objective/kl", "groups/careful/gold"} <= set(history)
    assert (tmp_path / "prompt" / "adapter_model.safetensors").exists()


def own(folder: Path, **kind: bool) -> list[str]:
    """The flags that say what is the user's, and quick ones."""
    quick = ["--max_steps", "2", "--num_iterations", "1", "--use_cpu", "true", "--per_device_train_batch_size", "8"]
    quick += ["--max_completion_length", "4", "--logging_steps", "1", "--critic", "layers:1"]
    return [*save_own(folder, folder / "out", **kind), *quick]


def test_own_model_reward_and_rows_with_adapters(recipe: ModuleType, tmp_path: Path) -> None:
    flags = own(tmp_path)
    lora = ["--use_peft", "true", "--lora_target_modules", "all-linear", "--critic", "lora"]
    summary = recipe.main([*flags, *lora, "--policy_conditioning", "adapter", "--compare_with", "prompt"])
    assert finite(summary) and "adapter/reward" in summary and "adapter/gold" not in summary
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    loaded = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter" / "type_1")
    assert loaded.peft_config["default"].r == 16
    samples = pd.read_json(tmp_path / "out" / "samples.jsonl", lines=True)
    assert set(samples["country"]) == {"IE"} and set(samples["model"]) == {"reference", "prompt", "adapter"}
    assert set(samples["type"]) <= {"prototype_0", "prototype_1"} and any("/prototype_" in key for key in summary)
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "### By type" in report and "completions, for" in report and "standard deviations" in report


def test_own_model_trained_whole(recipe: ModuleType, tmp_path: Path) -> None:
    summary = recipe.main([*own(tmp_path), "--learning_rate", "1e-2", "--critic", "full"])
    assert finite(summary) and summary["prompt/kl"] != 0.0
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "prompt")


def test_message_rows_reach_a_report(recipe: ModuleType, tmp_path: Path) -> None:
    lora = ["--use_peft", "true", "--lora_target_modules", "all-linear", "--policy_conditioning", "adapter"]
    assert finite(recipe.main([*own(tmp_path, messages=True), *lora]))
    samples = pd.read_json(tmp_path / "out" / "samples.jsonl", lines=True)
    assert samples["prompt"][0][0]["role"] == "user" and isinstance(samples["completion"][0], str)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--annotator_column", "rater"), r"row 0: there is no column 'rater'"),
        (("--model_name_or_path", "./empty"), "empty"),
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


def test_messages_without_a_chat_template_are_told_before_a_model_loads(
    recipe: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = own(tmp_path, messages=True)
    (tmp_path / "policy" / "chat_template.jinja").unlink()
    for model in (AutoModelForCausalLM, PALRewardModel):
        monkeypatch.setattr(model, "from_pretrained", lambda *a, **k: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match="tokenizer has no chat template"):
        recipe.main(flags)
