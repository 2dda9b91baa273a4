"""Folders that an earlier version saved are read, and score as they did there: tests/saved says how they were made."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from palign.conditioning import PolicyConditioning, WhoIsAsking, conditioning_of
from palign.data.preferences import Preferences
from palign.evaluation.judging.kinds import ModelKind, recognise
from palign.models.completions import TokenizedItems
from palign.models.files.game import fair_card, load_game
from palign.models.files.game_keys import GameRecord
from palign.models.mixture_policy import MixturePolicy
from palign.models.pal import PALRewardModel
from palign.models.single_adapter import AdapterPolicies, read_adapter
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.worlds.typed_records import keys_seen

SAVED = Path(__file__).parent / "saved"
EXPECTED: dict[str, Any] = json.loads((SAVED / "expected.json").read_text(encoding="utf-8"))
ROWS: list[dict[str, str]] = EXPECTED["rows"]
TOLERANCE = 1e-4  # processors round a pass otherwise by up to 2e-5; a head read wrongly is off by whole digits


def assert_as_before(found: Any, before: Any) -> None:
    """Within the tolerance, and of the same shape."""
    found, before = np.asarray(found, dtype=np.float64), np.asarray(before)
    assert found.shape == before.shape
    np.testing.assert_allclose(found, before, rtol=0, atol=TOLERANCE)


class Steps(TrainerCallback):
    """The optimizer steps that were taken, by number."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.taken.append(state.global_step)


@pytest.mark.parametrize("kind", ["pal_vectors", "pal_linear"])
def test_a_reward_over_vectors_scores_as_before(kind: str) -> None:
    vectors, people = np.array(EXPECTED["vectors"], dtype=np.float32), EXPECTED["people"]
    model, before = PALRewardModel.from_pretrained(SAVED / kind), EXPECTED[kind]
    assert_as_before(model.weights_for(people), before["weights"])
    assert_as_before(np.stack([model.score(None, vectors, person) for person in people]), before["scores"])
    if kind == "pal_vectors":
        assert model.config.temperature == 1.5
        assert_as_before(model.deviations_for(people), before["deviations"])


@pytest.mark.parametrize("kind", ["pal_text", "pal_prompt_lora"])
def test_a_reward_over_texts_scores_as_before(kind: str) -> None:
    model, before = PALRewardModel.from_pretrained(SAVED / kind), EXPECTED[kind]
    prompts, people = ([row[name] for row in ROWS] for name in ("prompt", "annotator_id"))
    assert_as_before(model.weights_for([*model.annotators.ids, "stranger"]), before["weights"])
    for side in ("chosen", "rejected"):
        assert_as_before(model.score(prompts, [row[side] for row in ROWS], people), before[side])


def test_a_mixture_scores_as_before() -> None:
    mixture, before = MixturePolicy.from_pretrained(SAVED / "mixture"), EXPECTED["mixture"]
    assert_as_before(mixture.mixing_weights, before["mixing_weights"])
    assert_as_before(mixture.responsibilities_for(EXPECTED["mixture_people"]), before["responsibilities"])
    assert_as_before(mixture.type_rewards(ROWS), before["type_rewards"])
    assert_as_before(mixture.scores(ROWS), before["scores"])
    assert recognise(str(SAVED / "mixture")).kind is ModelKind.MIXTURE


def test_a_checkpoint_goes_on_as_the_run_that_wrote_it(tmp_path: Path) -> None:
    """Plain SGD has no state of its own, so that what the uninterrupted run ended with is what must come out."""
    base = SAVED / "mixture" / "base_model"
    model = AutoModelForCausalLM.from_pretrained(base, use_safetensors=True)
    shutil.copytree(SAVED / "checkpoint", tmp_path, dirs_exist_ok=True)
    args = MixtureDPOConfig(
        output_dir=str(tmp_path), n_types="2", n_permutations=0, n_restarts=2, head_dim=4, head_ridge=1.0, beta=0.5,
        learning_rate=1.5, optim="sgd", lr_scheduler_type="constant", max_grad_norm=1.0,
        per_device_train_batch_size=8, max_steps=6, n_rounds=2, m_step="weighted", max_length=64,
        save_only_model=True, logging_strategy="no", use_cpu=True, disable_tqdm=True, report_to="none", seed=0,
        e_step_tolerance=0.0,  # that run read all rows
    )  # fmt: skip
    lora = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(base)
    steps = Steps()
    trainer = MixtureDPOTrainer(model, args, ROWS, processing_class=tokenizer, peft_config=lora, callbacks=[steps])
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert steps.taken == [4, 5, 6] and [row["step"] for row in trainer.mixture.history] == [3, 6]
    before = EXPECTED["mixture"]
    evidence = [row["mixture/evidence"] for row in trainer.mixture.history]
    assert_as_before(evidence, before["evidence"])
    assert_as_before(trainer.mixture.responsibilities, before["responsibilities"][:-1])
    assert_as_before(trainer.mixture_policy().type_rewards(ROWS), before["type_rewards"])


def test_a_fair_policy_is_read_and_speaks_as_before() -> None:
    folder, before = SAVED / "fair", EXPECTED["fair"]
    record = load_game(folder)
    assert "plain_prompts" not in record  # all were read bare then
    keys_seen(record | {"plain_prompts": True}, GameRecord)
    assert record["chosen"] == before["chosen"]
    assert f"**{before['chosen']}**" in fair_card(record)
    source = recognise(str(folder), base=str(SAVED / "mixture" / "base_model"))
    assert source.kind is ModelKind.FAIR_POLICY and source.plain_prompts is True
    mixture = MixturePolicy.from_pretrained(SAVED / "mixture")
    read_adapter(mixture.policies.policy, "fair", folder)
    items = TokenizedItems.of(Preferences.from_rows(ROWS), mixture.tokenizer, max_length=64)
    with torch.no_grad():
        logps = AdapterPolicies(mixture.policies.policy, ["fair", None])(**items.collate(list(range(len(items)))))
    assert_as_before(logps, before["logps"])


def test_a_policy_is_told_who_asks_as_before() -> None:
    folder, before = str(SAVED / "policy"), EXPECTED["policy"]
    assert conditioning_of(folder) is PolicyConditioning.PROMPT
    people = list(before)
    asked = WhoIsAsking.load(folder).condition(["what colour is the door?"] * len(people), people)
    assert asked == list(before.values())


def test_what_is_kept_differs_where_it_should() -> None:
    """People, types, and the fair policy from its base, by far more than the tolerance: else nothing was compared."""
    for kind in ("pal_vectors", "pal_linear"):
        assert np.ptp(EXPECTED[kind]["scores"], axis=0).max() > 100 * TOLERANCE
    rewards, logps = np.array(EXPECTED["mixture"]["type_rewards"]), np.array(EXPECTED["fair"]["logps"])
    assert np.ptp(rewards, axis=2).max() > 100 * TOLERANCE
    assert np.ptp(logps, axis=1).max() > 100 * TOLERANCE
    assert len({told.split("]")[0].split(",")[0] for told in EXPECTED["policy"].values()}) == 2
