"""A warm start: the reference learns the answers, is merged and saved, and every path reads the same reference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from palign.data.preferences import Preferences
from palign.models.completions import TokenizedItems, policy_logps
from palign.models.mixture_policy import MixturePolicy
from palign.trainers.mixture import warm_start as module
from palign.trainers.mixture.warm_start import RECORD, nats_per_token, unlikely_answers
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.worlds.colour import colour_lm, colour_tokenizer, planted
from tests.worlds.lora import lora


def make(output: Path, rows: Any = None, model: Any = None, **further: Any) -> MixtureDPOTrainer:
    options = {
        "n_types": 2, "n_permutations": 0, "n_restarts": 2, "head_dim": 16, "per_device_train_batch_size": 4,
        "learning_rate": 1e-2, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "max_steps": 2,
        "n_rounds": 1, "sft_epochs": 6, "sft_learning_rate": 2e-2,
    } | further  # fmt: skip
    return MixtureDPOTrainer(
        model or colour_lm(), MixtureDPOConfig(output_dir=str(output), **options), rows or planted(),
        processing_class=colour_tokenizer(), peft_config=lora(),
    )  # fmt: skip


def chosen_logps(model: Any, rows: Preferences) -> np.ndarray:
    items = TokenizedItems.of(rows, colour_tokenizer())
    with torch.no_grad():
        return policy_logps(model.eval(), **items.collate(np.arange(len(items)))).numpy()


def test_the_reference_learns_the_answers_and_everything_reads_it(tmp_path: Path) -> None:
    rows = planted()
    cold = chosen_logps(colour_lm(), rows)
    trainer = make(tmp_path, rows)
    trainer.prepare()
    assert trainer.reference_logps.mean() > cold.mean() + 1  # nats a completion
    trainer.train()
    trainer.save_model()
    record = json.loads((tmp_path / "mixture.json").read_text(encoding="utf-8"))
    warm = record["reference"]["warm_start"]
    assert record["base_model"] is None  # the folder base_model beside it
    assert (warm["epochs"], warm["answers"], warm["n_answers"]) == (6, "all", len(rows.items))
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base_model")
    np.testing.assert_allclose(chosen_logps(base, rows), trainer.reference_logps, atol=1e-4)
    mine = trainer.mixture_policy().type_rewards(rows)
    read = MixturePolicy.from_pretrained(tmp_path)
    torch.testing.assert_close(read.type_rewards(rows), mine, atol=1e-4, rtol=1e-4)
    plain = PeftModel.from_pretrained(base, tmp_path / "type_1")  # plain PEFT, on the saved base
    logps = chosen_logps(plain, rows)
    expected = 0.1 * (logps - trainer.reference_logps)
    torch.testing.assert_close(
        mine[0, :, 1], torch.from_numpy(expected[rows.item_indices[0]]).double(), atol=1e-4, rtol=1e-3
    )


def test_best_answers_alone_are_taught_where_asked(tmp_path: Path) -> None:
    rows = planted(n_annotators=2, n_rows=6, n_items=4)
    best = make(tmp_path / "best", rows, sft_answers="best", n_types=1)
    best.prepare()
    record = json.loads((tmp_path / "best" / "base_model" / RECORD).read_text(encoding="utf-8"))
    assert record["n_answers"] == len({int(row[0]) for row in rows.item_indices})
    with pytest.raises(ValueError, match="'worst' is not a valid WarmAnswers"):
        make(tmp_path / "no", sft_answers="worst")


def test_it_is_made_once_and_read_by_the_run_that_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make(tmp_path, max_steps=4, n_rounds=2)
    first.train()
    made: list[int] = []
    train = module._train
    monkeypatch.setattr(module, "_train", lambda *args: made.append(1) or train(*args))
    again = make(tmp_path, max_steps=4, n_rounds=2)
    again.train(resume_from_checkpoint=True)
    assert made == []
    np.testing.assert_array_equal(again.reference_logps, first.reference_logps)
    for name, parameter in again.policies.policy.named_parameters():
        if "lora" in name:
            torch.testing.assert_close(parameter, first.policies.policy.get_parameter(name))
    warmed = AutoModelForCausalLM.from_pretrained(tmp_path / "base_model")
    baseline = make(tmp_path / "baseline", model=warmed)  # a baseline: this model is warm already
    baseline.prepare()
    assert made == []
    make(tmp_path, sft_epochs=1).prepare()  # other options
    assert made == [1]


def test_weights_that_are_not_what_was_recorded_are_not_read(tmp_path: Path) -> None:
    first = make(tmp_path)
    first.prepare()
    colour_lm(seed=3).save_pretrained(tmp_path / "base_model")
    again = make(tmp_path)
    again.prepare()
    np.testing.assert_allclose(again.reference_logps, first.reference_logps, atol=1e-4)


def test_a_loss_that_runs_away_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="The loss of the warm start is not finite. Lower sft_learning_rate"):
        make(tmp_path, sft_learning_rate=1e30, max_grad_norm=0.0).prepare()
    assert not (tmp_path / "base_model").exists()


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer._policies.policy.is_quantized = True
    with pytest.raises(ValueError, match="the base is quantized"):
        trainer.prepare()


def test_nats_a_token_by_hand() -> None:
    rows = Preferences.from_rows([{"annotator_id": "a", "prompt": "p", "chosen": "x y", "rejected": "z"}])
    items = TokenizedItems(np.arange(9, dtype=np.int32), np.array([5, 9]), np.array([2, 2]), 0)  # 3 and 2 tokens
    assert nats_per_token(rows, items, np.array([-12.0, -3.0])) == {"best": -4.0, "others": -1.5}


def test_what_is_recommended_where_answers_are_unlikely(tmp_path: Path) -> None:
    args = MixtureDPOConfig(output_dir=str(tmp_path), use_cpu=True)
    assert unlikely_answers({"best": -2.9}, args) is None
    advice = unlikely_answers({"best": -4.04}, args)
    assert "-4.04 nats a token" in advice and "--sft_epochs 2" in advice and "--rpo_alpha 1" in advice
    args.sft_epochs, args.rpo_alpha = 1, 1.0
    assert unlikely_answers({"best": -4.0}, args) is None
