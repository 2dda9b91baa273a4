"""EM mixture-DPO on a tiny model: plain DPO at K = 1, types found, adapters and only adapters moved, resume, undo."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from palign.functional.mixture import sum_by_annotator
from palign.functional.partitions import type_accuracy
from palign.models.adapters import add_type_adapters
from palign.models.mixture_policy import MixturePolicy
from palign.trainers import mixture_dpo_trainer
from palign.trainers.checkpointing.complete import MARKER, mark_complete
from palign.trainers.checkpointing.same_run import RUN
from palign.trainers.mixture import e_step as mixture_e_step
from palign.trainers.mixture.state import MixtureState, round_ends
from palign.trainers.mixture_dpo_config import MixtureDPOConfig, MStep
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.worlds.colour import colour_lm, colour_tokenizer, planted, planted_rows
from tests.worlds.lora import lora


def options(output: Path, **further: Any) -> dict[str, Any]:
    """What every trainer here shares; the names are also TRL's."""
    return {
        "output_dir": str(output), "per_device_train_batch_size": 4, "learning_rate": 1e-2, "beta": 0.1, "seed": 0,
        "logging_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        **further,
    }  # fmt: skip


def make_trainer(output: Path, rows: Any = None, **further: Any) -> MixtureDPOTrainer:
    own = {"n_types": 2, "n_permutations": 0, "n_restarts": 2, "head_dim": 16}
    given = further.pop("responsibilities", None)
    callbacks = further.pop("callbacks", None)
    return MixtureDPOTrainer(
        colour_lm(), MixtureDPOConfig(**options(output, **(own | further))), planted() if rows is None else rows,
        processing_class=colour_tokenizer(), peft_config=lora(), responsibilities=given, callbacks=callbacks,
    )  # fmt: skip


def adapters_of(trainer: MixtureDPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.policies.policy.named_parameters() if "lora" in name}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_type_is_trls_dpo(tmp_path: Path, accumulation: int) -> None:
    rows = planted_rows(4, 9)  # 36 rows: the last batch of an epoch is a part of one
    common = {"gradient_accumulation_steps": accumulation, "per_device_train_batch_size": 8, "num_train_epochs": 2}
    ours = make_trainer(tmp_path / "ours", rows, n_types=1, **common)
    theirs = DPOTrainer(
        model=colour_lm(),
        args=DPOConfig(**options(tmp_path / "trl", bf16=False, gradient_checkpointing=False, **common)),
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
        ),
        processing_class=colour_tokenizer(),
        peft_config=lora(),
    )
    drawn = {name.replace(".type_0", ".default"): tensor for name, tensor in adapters_of(ours).items()}
    with torch.no_grad():  # LoRA's A is a random draw: both begin with the same
        for name, parameter in theirs.model.named_parameters():
            if "lora" in name:
                parameter.copy_(drawn[name])
    ours.train()
    theirs.train()
    for name in ("loss", "grad_norm", "rewards/chosen", "rewards/margins"):
        own, trl = ([log[name] for log in trainer.state.log_history if name in log] for trainer in (ours, theirs))
        assert len(own) == len(trl) == {1: 10, 2: 6}[accumulation]
        np.testing.assert_allclose(own, trl, atol=1e-5)
    assert own[-1] != own[0]


def test_rows_of_like_length_share_a_batch_where_they_are_asked_to(tmp_path: Path) -> None:
    rows = planted_rows(8, 8)
    for number, row in enumerate(rows):
        row["chosen"] += " red" * (number % 9)
    spreads = {}
    for strategy in ("random", "group_by_length"):
        trainer = make_trainer(
            tmp_path / strategy, rows, n_types=1, num_train_epochs=2, train_sampling_strategy=strategy
        )
        seen: list[list[int]] = []
        collate = trainer.data_collator
        trainer.data_collator = lambda numbers, seen=seen, collate=collate: (seen.append(numbers), collate(numbers))[1]
        trainer.train()
        assert sorted(sum(seen[:16], [])) == sorted(sum(seen[16:], [])) == list(range(64)) and seen[:16] != seen[16:]
        lengths = trainer.items.lengths[trainer.train_rows.item_indices].sum(1)
        spreads[strategy] = np.mean([np.ptp(lengths[batch]) for batch in seen])
    assert spreads["group_by_length"] < 0.5 * spreads["random"]


@pytest.mark.parametrize("rpo_alpha", [0.0, 0.7])
def test_the_likelihood_of_the_best_is_weighed_as_trls_sft_loss(tmp_path: Path, rpo_alpha: float) -> None:
    """TRL's `rpo_alpha`, in later versions its losses 'sigmoid' and 'sft' with weights 1 and rpo_alpha."""
    rows, steps = planted_rows(4, 8), {"per_device_train_batch_size": 8, "max_steps": 3}
    ours = make_trainer(tmp_path / "ours", rows, n_types=1, rpo_alpha=rpo_alpha, **steps)
    theirs = DPOTrainer(
        model=colour_lm(),
        args=DPOConfig(
            **options(tmp_path / "trl", bf16=False, gradient_checkpointing=False, **steps),
            loss_type=["sigmoid", "sft"], loss_weights=[1.0, rpo_alpha],
        ),
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("prompt", "chosen", "rejected")} for row in rows]
        ),
        processing_class=colour_tokenizer(),
        peft_config=lora(),
    )  # fmt: skip
    drawn = {name.replace(".type_0", ".default"): tensor for name, tensor in adapters_of(ours).items()}
    with torch.no_grad():
        for name, parameter in theirs.model.named_parameters():
            if "lora" in name:
                parameter.copy_(drawn[name])
    ours.train()
    theirs.train()
    for name in ("loss", "grad_norm"):
        own, trl = ([log[name] for log in trainer.state.log_history if name in log] for trainer in (ours, theirs))
        np.testing.assert_allclose(own, trl, atol=1e-5)
    assert ("nll_loss" in ours.state.log_history[0]) == (rpo_alpha > 0)


def test_each_type_is_told_the_best_of_its_own_rows(tmp_path: Path) -> None:
    """With hardly any beta only the likelihood teaches: each type learns the colours of its people, no others."""
    gamma = np.eye(2)[[0, 1] * 4]
    rows = planted(n_rows=10)
    trainer = make_trainer(
        tmp_path, rows, types_from="given", responsibilities=gamma, beta=1e-6, rpo_alpha=1.0, max_steps=30,
        per_device_train_batch_size=16,
    )  # fmt: skip
    trainer.train()
    rewards = trainer.mixture_policy().type_rewards(rows) / 1e-6  # nats
    margins = (rewards[:, 0] - rewards[:, 1]).numpy()
    own = np.array([int(person[1:]) % 2 for person in rows.annotator_ids])
    assert margins[np.arange(len(own)), own].mean() > 0.1 > -0.1 > margins[np.arange(len(own)), 1 - own].mean()


@pytest.mark.parametrize(("n_items", "reachable"), [(2, 1.0), (4, 5 / 6)])  # of 6 pairs of four, 2 are within a kind
def test_planted_types_are_found_and_served(tmp_path: Path, n_items: int, reachable: float) -> None:
    rows = planted(n_annotators=8, n_rows=8, n_items=n_items)
    trainer = make_trainer(tmp_path, rows, num_train_epochs=6, beta=0.5)
    trainer.train()
    truth = torch.tensor([0, 1] * 4)
    found = trainer.mixture.responsibilities.argmax(1)
    assert type_accuracy(found, truth) == 1.0
    assert trainer.mixture.mixing_weights.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    assert trainer.evaluate(rows)["eval_accuracy"] > reachable - 0.05
    assert [row["round"] for row in trainer.mixture.history] == [1, 2]


def test_every_tensor_of_every_type_moved_and_the_base_did_not(tmp_path: Path) -> None:
    base = {name: tensor.clone() for name, tensor in colour_lm().state_dict().items()}
    trainer = make_trainer(tmp_path, num_train_epochs=2)
    before = adapters_of(trainer)
    trainer.train()
    for name, tensor in adapters_of(trainer).items():
        assert not torch.equal(tensor, before[name]), name
    model = trainer.policies.policy.unload()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, base[name]), name


def test_types_trained_together_are_types_trained_apart(tmp_path: Path) -> None:
    """Given types, each adapter's path is that of a DPO run that sees its own rows with their weights."""
    gamma = np.eye(2)[[0, 1] * 4]
    rows = planted()
    together = make_trainer(
        tmp_path / "both", rows, types_from="given", responsibilities=gamma, m_step="weighted",
        per_device_train_batch_size=48, max_steps=3, max_grad_norm=0.0,
    )  # fmt: skip
    together.train()
    own = rows.take_annotators([f"p{i}" for i in range(0, 8, 2)])
    apart = make_trainer(
        tmp_path / "one", own, n_types=1, per_device_train_batch_size=24, max_steps=3, max_grad_norm=0.0
    )
    apart.train()
    both, alone = adapters_of(together), adapters_of(apart)
    for name, tensor in alone.items():
        torch.testing.assert_close(both[name], tensor, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("m_step", ["sampled", "weighted"])
def test_eight_rows_are_two_times_four(tmp_path: Path, m_step: str) -> None:
    ends = []
    for batch_size, accumulation in ((8, 1), (4, 2)):
        trainer = make_trainer(
            tmp_path / str(batch_size), m_step=m_step, per_device_train_batch_size=batch_size, max_steps=4,
            gradient_accumulation_steps=accumulation, n_rounds=1,
        )  # fmt: skip
        trainer.train()
        ends.append(adapters_of(trainer))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], atol=2e-5, rtol=1e-3)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    ends = []
    for checkpointing in (False, True):
        trainer = make_trainer(tmp_path / str(checkpointing), max_steps=3, gradient_checkpointing=checkpointing)
        trainer.train()
        ends.append(adapters_of(trainer))
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], atol=1e-6, rtol=1e-5)


def test_recorded_likelihoods_are_those_of_the_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a learning rate of zero the passes of the M-step say what an E-step of its own would."""
    trainer = make_trainer(
        tmp_path, m_step="weighted", min_responsibility=0.0, num_train_epochs=1, learning_rate=0.0, n_rounds=1
    )
    generator = torch.Generator().manual_seed(0)
    for name, tensor in trainer.policies.policy.named_parameters():
        if "lora_B" in name:  # zero in a new adapter, whose margins then are
            tensor.data = 0.3 * torch.randn(tensor.shape, generator=generator)
    asked, run = [], mixture_e_step.type_logps

    def note(policies: Any, items: Any, wanted: np.ndarray, **options: Any) -> np.ndarray:
        asked.append(int(wanted.sum()))
        return run(policies, items, wanted, **options)

    monkeypatch.setattr(mixture_e_step, "type_logps", note)
    trainer.train()
    assert asked == []  # nothing was left to compute
    by_row = trainer._row_log_likelihoods()[:, 0]
    assert asked[0] > 0
    counted = by_row * trainer.row_weights[:, None]  # rows of a person that share items count for less
    again = sum_by_annotator(counted, trainer.annotator_index, len(trainer.annotators))
    torch.testing.assert_close(trainer.mixture.log_likelihoods, again, atol=1e-4, rtol=1e-5)
    alike = next(c for c in trainer.mixture.history[-1]["checks"] if c["name"] == "duplicate_types")
    expected = torch.corrcoef(trainer._row_log_likelihoods()[:, 1].T)[0, 1]  # of margins, not of likelihoods
    assert alike["value"] == pytest.approx(float(expected), abs=1e-4)


class StopAt(TrainerCallback):
    """An interruption after so many steps."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize(
    ("stop", "m_step"),
    [
        (4, "sampled"),  # at the end of a round
        (5, "weighted"),  # in the midst of one
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in ((4, "weighted"), (5, "sampled"))),
        *(pytest.param(9, m_step, marks=pytest.mark.slow) for m_step in ("sampled", "weighted")),
    ],
)
def test_resumed_is_uninterrupted(tmp_path: Path, stop: int, m_step: str) -> None:
    settings = {"num_train_epochs": 1, "n_rounds": 3, "save_strategy": "steps", "save_steps": 1, "m_step": m_step}
    whole = make_trainer(tmp_path / "whole", **settings)
    whole.train()
    broken = make_trainer(tmp_path / "broken", callbacks=[StopAt(stop)], **settings)
    broken.train()
    resumed = make_trainer(tmp_path / "broken", **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.mixture.round == 3 and len(resumed.mixture.history) == 3
    torch.testing.assert_close(resumed.mixture.responsibilities, whole.mixture.responsibilities)
    for name, tensor in adapters_of(whole).items():
        assert torch.equal(tensor, adapters_of(resumed)[name]), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    """Of other people, of other rows of the same people, with another beta or another length, which moves rounds."""
    make_trainer(tmp_path / "a", max_steps=4, n_rounds=2).train()
    checkpoint = tmp_path / "a" / "checkpoint-2"
    same, fewer = planted(n_annotators=8, seed=5), planted(n_annotators=6)
    for rows, change, words in (
        (same, {}, r"rows \d+ rows, key \w+ \(now \d+ rows, key \w+\)"),
        (None, {"beta": 0.9}, r"beta [\d.]+ \(now 0.9\)"),
        (None, {"max_steps": 8}, r"length 4 steps \(now 8 steps\)"),
    ):
        other = make_trainer(tmp_path / "b", rows, **{"max_steps": 4, "n_rounds": 2} | change)
        with pytest.raises(ValueError, match=f"of another run: {words}. Go on"):
            other.train(resume_from_checkpoint=str(checkpoint))
    for name in (RUN, MARKER):  # as an earlier version wrote it: what cannot be loaded is still refused
        (checkpoint / name).unlink()
    mark_complete(checkpoint)
    other = make_trainer(tmp_path / "b", fewer, max_steps=4)
    with pytest.raises(ValueError, match=r"8 annotators, 2 types and \d+ rows, these are 6, 2 and \d+"):
        other.train(resume_from_checkpoint=str(checkpoint))


def test_a_finished_run_is_loaded_and_takes_no_step(tmp_path: Path) -> None:
    """Ended within its first epoch; as the recipe goes on with it."""
    settings = {"max_steps": 4, "n_rounds": 2, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(tmp_path, **settings)
    whole.train()
    again = make_trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4 and again.mixture.round == 2 and again.mixture.history == whole.mixture.history
    torch.testing.assert_close(again.mixture.responsibilities, whole.mixture.responsibilities, atol=0, rtol=0)
    for name, tensor in adapters_of(whole).items():
        assert torch.equal(tensor, adapters_of(again)[name]), name


def test_a_nan_undoes_the_round_and_loses_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, num_train_epochs=1, n_rounds=2)
    kept: dict[str, torch.Tensor] = {}

    class Poison(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 8:  # the first round ended after 6
                kept.update(load_file(tmp_path / "type_1" / "adapter_model.safetensors"))
                named = trainer.policies.named_parameters()
                with torch.no_grad():
                    next(p for name, p in named if "down_proj.lora_A.type_1" in name).fill_(float("nan"))

    trainer.add_callback(Poison())
    with pytest.raises(RuntimeError, match=r"type_1 is not finite at step 9\. Round 2 is undone.*learning_rate"):
        trainer.train()
    assert trainer.mixture.round == 1
    assert all(bool(torch.isfinite(tensor).all()) for tensor in adapters_of(trainer).values())
    saved = load_file(tmp_path / "type_1" / "adapter_model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in kept.items())
    assert json.loads((tmp_path / "mixture.json").read_text())["rounds"][-1]["round"] == 1
    assert MixturePolicy.from_pretrained(tmp_path).n_types == 2


def test_files_load_with_peft_alone_and_with_mixture_policy(tmp_path: Path) -> None:
    rows = planted()
    trainer = make_trainer(tmp_path, rows, num_train_epochs=3)
    trainer.train()
    trainer.save_model()
    loaded = MixturePolicy.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.scores(rows), trainer.mixture_policy().scores(rows), atol=1e-5, rtol=1e-5)
    assert loaded.record.annotators == trainer.annotators
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base_model"), tmp_path / "type_1"
    )
    ids = colour_tokenizer()(["what colour is the boat?"], return_tensors="pt")["input_ids"]
    said = plain.generate(input_ids=ids, max_new_tokens=4, do_sample=False)
    assert said.shape[1] > ids.shape[1]
    answer = colour_tokenizer().decode(said[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert loaded.generate(["what colour is the boat?"], type=1, max_new_tokens=4, temperature=0) == [answer]


def test_a_dead_type_trains_nothing_and_breaks_nothing(tmp_path: Path) -> None:
    gamma = np.tile([1.0, 0.0], (8, 1))
    trainer = make_trainer(tmp_path, types_from="given", responsibilities=gamma, max_steps=4)
    before = adapters_of(trainer)
    trainer.train()
    after = adapters_of(trainer)
    assert all(torch.equal(after[name], before[name]) for name in after if "type_1" in name and "lora_B" in name)
    assert any(not torch.equal(after[name], before[name]) for name in after if "type_0" in name)
    trainer.save_model()
    assert "type_1" in (tmp_path / "README.md").read_text()


def test_one_busy_annotator_counts_once(tmp_path: Path) -> None:
    busy = [row | {"annotator_id": "busy"} for row in planted_rows(1, 60)]
    trainer = make_trainer(tmp_path, [*busy, *planted_rows(6, 4, seed=1)], num_train_epochs=2)
    trainer.train()
    record = trainer.record()
    assert record.n_rows.tolist() == [60, 4, 4, 4, 4, 4, 4]
    np.testing.assert_allclose(record.mixing_weights, record.responsibilities.mean(0), atol=1e-9)


def test_rounds_end_where_they_should() -> None:
    assert round_ends(5, 2) == [2, 5]
    assert round_ends(9, 3) == [3, 6, 9]
    assert round_ends(1, 3) == [1]
    assert round_ends(2, 3) == [1, 2]


def test_sampled_weights_have_column_means_of_one() -> None:
    gamma = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64)
    index = torch.tensor([0] * 10 + [1] * 5)
    state = MixtureState(gamma, gamma.mean(0), torch.zeros(2, 2), torch.full((15, 2), float("nan")))
    for m_step in MStep:
        weights = state.row_type_weights(index, m_step, min_responsibility=1e-3, seed=0)
        torch.testing.assert_close(weights.mean(0), torch.ones(2))
    # sampled: γ says 10 · .9 + 5 · .2 = 10 rows of type 0
    assert int((state.row_type_weights(index, MStep.SAMPLED, min_responsibility=0, seed=1)[:, 0] > 0).sum()) == 10


@pytest.mark.parametrize(
    ("further", "rows", "message"),
    [
        ({"n_types": "9"}, None, "n_types is 9, and the rows come from 8 annotators"),
        ({}, [row | {"annotator_id": "a"} for row in planted_rows()], "come from one annotator"),
        ({"types_from": "given"}, None, "responsibilities are missing"),
        ({"responsibilities": np.ones((8, 2)) / 2}, None, "nothing else reads them"),
        ({"types_from": "given", "responsibilities": np.ones((7, 2)) / 2}, None, r"\(8, n_types\) is needed"),
        ({"types_from": "given", "responsibilities": np.ones((8, 2))}, None, "sum to 1"),
        ({"beta": 0.0}, None, "beta is 0.0"),
        ({"n_types": "0"}, None, "n_types is '0'"),
        ({"m_step": "hard"}, None, "'hard' is not a valid MStep"),
        ({}, [{"annotator_id": "a", "prompt": "p", "completions": ["x"]}], "at least two|needs two|2 or more|two"),
        ({"max_length": 3}, None, "max_length"),
    ],
)
def test_what_cannot_work_is_said_before_the_model_runs(
    tmp_path: Path, further: dict[str, Any], rows: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_pass(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr("palign.trainers.mixture_dpo_trainer.reference_pass", no_pass)
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, rows, **further)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    ends = []
    for number in range(2):
        torch.manual_seed(number)  # what was drawn before does not matter
        trainer = make_trainer(tmp_path / str(number), max_steps=3)
        trainer.train()
        ends.append(adapters_of(trainer))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_adapters_begin_as_the_reference(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    fresh = add_type_adapters(colour_lm(), lora(), 2, seed=0)
    for name, parameter in fresh.named_parameters():
        if "lora" in name:
            assert torch.equal(parameter, dict(trainer.policies.policy.named_parameters())[name])
    rewards = trainer.mixture_policy().type_rewards(planted())
    torch.testing.assert_close(rewards, torch.zeros_like(rewards), atol=1e-5, rtol=0)


def test_making_a_trainer_does_no_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No pass through the model, no EM, no adapter, no file; the first who needs them has them done, once."""
    calls: list[str] = []

    def counted(name: str) -> None:
        original = getattr(mixture_dpo_trainer, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(mixture_dpo_trainer, name, call)

    counted("reference_pass")
    counted("linear_start")
    output = tmp_path / "out"
    trainer = make_trainer(output, max_steps=2)
    assert calls == [] and not any("lora" in name for name, _ in trainer.model.named_parameters())
    assert not output.exists() or not any(output.iterdir())
    assert trainer.n_types == 2 and calls == ["reference_pass", "linear_start"]
    trainer.train()
    trainer.save_model()
    trainer.mixture_policy()
    assert calls == ["reference_pass", "linear_start"]


def test_linear_scores_before_training_change_nothing(tmp_path: Path) -> None:
    """The order of the recipe."""
    ends = []
    for first in (False, True):
        trainer = make_trainer(tmp_path / str(first), max_steps=3)
        if first:
            scores = trainer.linear_scores(planted())
            assert scores is not None and scores.shape == planted().item_indices.shape

        trainer.train()
        ends.append(adapters_of(trainer))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_an_untrained_mixture_can_be_saved_and_evaluated(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=1)
    trainer.save_model()
    assert MixturePolicy.from_pretrained(tmp_path).n_types == 2
    again = make_trainer(tmp_path / "again", max_steps=1)
    assert np.isfinite(again.evaluate(planted())["eval_log_likelihood"])
