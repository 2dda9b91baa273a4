"""PALPPOTrainer in one process: pairing, exactness, what moves, the critic's kinds, guard, saving, and messages."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers.processors import TemplateProcessing

from palign.conditioning import WhoIsAsking
from palign.pipelines.prototype_adapters import choose_prototypes
from palign.rewards import PersonalizedReward
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.policy.collapse import CollapseGuard
from tests.worlds.lora import lora
from tests.worlds.ppo_policy import IdReward, make_trainer, named_rows, ppo_config, tiny_policy, wrong_pairings
from tests.worlds.tiny_policy import train_beyond_the_limit

CRITICS = ["lora", "head", "full", "layers:1"]


class Words:
    """Word count times (1 + the person's number)."""

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        pairs = zip(completions, annotator_ids, strict=True)
        return torch.tensor([len(text.split()) * (1.0 + float(person)) for text, person in pairs])


def rewards_of_steps(trainer: PALPPOTrainer) -> list[tuple[str, float]]:
    """(prompt, reward at the last token) of every rollout, from the tensors that the loss is computed of."""
    kept: list[tuple[str, float]] = []
    make = trainer._generate_and_score_completions

    def spy(inputs: Any) -> dict[str, Any]:
        batch = make(inputs)
        mask = batch["completion_mask"].bool()
        total = ((batch["returns"] - batch["old_values"]) * 0 + batch["returns"])[:, 0]  # λ = γ = 1: the return
        prompts = [
            trainer.processing_class.decode(i[m.bool()])
            for i, m in zip(batch["prompt_ids"], batch["prompt_mask"], strict=True)
        ]
        assert mask.any(1).all()
        kept.extend(zip(prompts, total.tolist(), strict=True))
        return batch

    trainer._generate_and_score_completions = spy
    return kept


def test_every_completion_earns_the_reward_of_the_person_its_prompt_names(tmp_path: Path) -> None:
    """Down to the loss's tensors: with γ = λ = 1 and no KL the return at the first token is the person's number."""
    trainer = make_trainer(tmp_path, kl_coef=0.0, lam=1.0, steps_per_generation=2, num_iterations=2, max_steps=8)
    kept = rewards_of_steps(trainer)
    trainer.train()
    assert [len(call) for call in trainer.seen] == [16, 16]
    assert wrong_pairings([row for call in trainer.seen for row in call]) == 0
    for prompt, total in kept:
        assert total == pytest.approx(float(prompt.split("person ")[1].split(" asks")[0]), abs=1e-4)
    assert len({round(total) for _, total in kept}) > 8


def test_a_wrong_pairing_is_seen(tmp_path: Path) -> None:
    """The check above fails where people are handed on in another order."""
    trainer = make_trainer(tmp_path, kl_coef=0.0, lam=1.0, max_steps=1)
    recorder = trainer.reward_funcs[0]

    def wrong(annotator_id: list[str], **rest: Any) -> list[float]:
        return recorder(annotator_id=annotator_id[1:] + annotator_id[:1], **rest)

    trainer.reward_funcs = [wrong]
    kept = rewards_of_steps(trainer)
    trainer.train()
    numbers = [float(prompt.split("person ")[1].split(" asks")[0]) for prompt, _ in kept]
    assert sum(abs(total - number) > 0.5 for (_, total), number in zip(kept, numbers, strict=True)) >= 7
    assert wrong_pairings(trainer.seen[0]) >= 7


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("critic", ["lora", "layers:1"])
def test_at_learning_rate_0_nothing_is_clipped_and_the_kl_is_0(tmp_path: Path, penalty: float, critic: str) -> None:
    """Whatever the model's generation_config says."""
    model, tokenizer = tiny_policy()
    model.generation_config.repetition_penalty = penalty
    model.generation_config.top_k = 3
    trainer = make_trainer(
        tmp_path, PersonalizedReward(Words()), model=model, tokenizer=tokenizer, learning_rate=0.0, critic=critic,
        num_iterations=2, steps_per_generation=2, max_steps=8, max_completion_length=8,
    )  # fmt: skip
    ratios: list[float] = []
    compute = trainer._get_per_token_logps_and_entropies

    def spy(*args: Any, **kwargs: Any) -> Any:
        found = compute(*args, **kwargs)
        if torch.is_grad_enabled():
            inputs = trainer._buffered_inputs[trainer._step % 2]
            gap = (found[0].detach() - inputs["old_per_token_logps"]) * inputs["completion_mask"]
            ratios.append(gap.exp().sub(1).abs().max().item())
        return found

    trainer._get_per_token_logps_and_entropies = spy
    trainer.train()
    assert len(ratios) == 8 and max(ratios) < 1e-5
    assert all(abs(entry["objective/kl"]) < 1e-5 for entry in trainer.history)
    logged = [row for row in trainer.state.log_history if "clip_ratio/region_mean" in row]
    assert logged and all(row["clip_ratio/region_mean"] == row["clip_ratio/value"] == 0 for row in logged)


@pytest.mark.parametrize("critic", CRITICS)
def test_gradients_do_not_depend_on_how_the_batch_is_divided(tmp_path: Path, critic: str) -> None:
    """8 x 1, 4 x 2 and 2 x 4 give one gradient norm and the same parameters, though completions differ in length."""
    found = []
    for size in (8, 4, 2):
        torch.manual_seed(0)
        trainer = make_trainer(
            tmp_path / str(size), PersonalizedReward(Words()), per_device_train_batch_size=size, critic=critic,
            gradient_accumulation_steps=8 // size, num_iterations=2, max_steps=4, max_completion_length=8, seed=3,
        )  # fmt: skip
        trainer.train()
        norms = [row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row]
        state = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
        found.append((norms, state, [row["loss/value"] for row in trainer.history if "loss/value" in row]))
    assert len(found[0][0]) == 4 and min(found[0][0]) > 0
    for norms, state, value_losses in found[1:]:
        assert norms == pytest.approx(found[0][0], rel=1e-4)
        assert len(value_losses) == len(found[0][2])
        for name, values in state.items():
            torch.testing.assert_close(values, found[0][1][name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("critic", CRITICS)
def test_policy_and_critic_move_and_the_base_does_not(tmp_path: Path, critic: str) -> None:
    trainer = make_trainer(tmp_path, PersonalizedReward(Words()), critic=critic, num_iterations=2, max_steps=4)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("lora_B.default" in name for name in moved) and "critic.head.weight" in moved
    assert any("lora_B.critic" in name for name in moved) == (critic == "lora")
    assert any(name.startswith("critic.body") for name in moved) == (critic in ("full", "layers:1"))
    assert all("lora_" in name or name.startswith("critic.") for name in moved)


def test_the_losses_are_those_of_an_independent_computation(tmp_path: Path) -> None:
    """One fixed batch: policy loss, value loss and advantages to 1e-5, from logits and plain loops over tokens."""
    trainer = make_trainer(
        tmp_path, PersonalizedReward(Words()), num_iterations=2, max_steps=2, max_completion_length=6, vf_coef=0.3,
        kl_coef=0.2, gamma=0.9, lam=0.7, temperature=0.8, learning_rate=0.3,
    )  # fmt: skip
    seen: list[tuple[dict[str, Any], float, list[list[float]], list[list[float]]]] = []
    compute = trainer._compute_loss

    def spy(model: Any, inputs: Any) -> torch.Tensor:
        with torch.no_grad():
            logits = trainer.model(
                input_ids=torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1),
                attention_mask=torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1),
            ).logits
            values = trainer._values(trainer.model, inputs)
        n = inputs["completion_ids"].shape[1]
        logps = torch.log_softmax(logits[:, -n - 1 : -1].double() / 0.8, -1)
        chosen = logps.gather(-1, inputs["completion_ids"][..., None]).squeeze(-1)
        loss = compute(model, inputs)
        seen.append((inputs, float(loss), chosen.tolist(), values.tolist()))
        return loss

    trainer._compute_loss = spy
    trainer.train()
    first, second = seen
    assert first[0] is not None and any(
        abs(a - b) > 1e-3 for r, s in zip(first[2], second[2], strict=True) for a, b in zip(r, s, strict=True)
    )
    for inputs, loss, logps, values in seen:
        lengths = inputs["completion_mask"].sum(1).tolist()
        old, reference = inputs["old_per_token_logps"].tolist(), inputs["ref_per_token_logps"].tolist()
        was, scores = inputs["old_values"].tolist(), None
        advantages, returns = [], []
        texts = trainer.processing_class.batch_decode(inputs["completion_ids"], skip_special_tokens=True)
        prompts = trainer.processing_class.batch_decode(inputs["prompt_ids"], skip_special_tokens=True)
        for i, n in enumerate(lengths):
            person = float(prompts[i].split("person ")[1].split(" asks")[0])
            text = texts[i].strip()
            scores = len(text.split()) * (1 + person) if text else trainer.reward.empty_z
            rewards = [-0.2 * (old[i][t] - reference[i][t]) for t in range(n)]
            rewards[n - 1] += scores
            deltas = [rewards[t] + 0.9 * (was[i][t + 1] if t + 1 < n else 0.0) - was[i][t] for t in range(n)]
            gae = [sum((0.9 * 0.7) ** (s - t) * deltas[s] for s in range(t, n)) for t in range(n)]
            advantages.append(gae)
            returns.append([gae[t] + was[i][t] for t in range(n)])
        flat = np.array([a for row in advantages for a in row])
        mean, std = flat.mean(), flat.std()
        for i, n in enumerate(lengths):
            expected = (np.array(advantages[i]) - mean) / std
            np.testing.assert_allclose(inputs["advantages"][i, :n], expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(inputs["returns"][i, :n], returns[i], rtol=1e-5, atol=1e-5)
        policy = value = 0.0
        for i, n in enumerate(lengths):
            for t in range(n):
                ratio, a = np.exp(logps[i][t] - old[i][t]), float(inputs["advantages"][i, t])
                policy -= min(ratio * a, min(max(ratio, 0.8), 1.2) * a)
                near = was[i][t] + min(max(values[i][t] - was[i][t], -0.2), 0.2)
                goal = returns[i][t]
                value += 0.5 * max((values[i][t] - goal) ** 2, (near - goal) ** 2)
        assert loss == pytest.approx((policy + 0.3 * value) / sum(lengths), rel=1e-5, abs=1e-5)


def test_the_policy_is_told_who_asks_and_the_reward_is_not(tmp_path: Path) -> None:
    who = WhoIsAsking.from_weights([str(i) for i in range(40)], np.eye(3)[np.arange(40) % 3])
    trainer = make_trainer(tmp_path, who=who, policy_conditioning="prompt")
    assert trainer.train_rows.prompts[7] == "person 7 asks about the garden"
    trainer.train()
    rows = [row for call in trainer.seen for row in call]
    assert all(row.query.startswith(f"[reader: type {int(row.reward) % 3}] person ") for row in rows)
    with pytest.raises(ValueError, match="no `who` was given"):
        make_trainer(tmp_path, policy_conditioning="prompt")


def test_prompts_begin_with_bos_end_without_eos_and_are_cut_in_front(tmp_path: Path) -> None:
    model, tokenizer = tiny_policy()
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<bos>", "<eos>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A <eos>", special_tokens=special)
    trainer = make_trainer(tmp_path, model=model, tokenizer=tokenizer, max_prompt_length=3)
    ids = trainer._tokenize_prompts(["person 3 asks about the garden"])[0]
    assert ids == [[tokenizer.bos_token_id, *tokenizer("the garden", add_special_tokens=False)["input_ids"]]]
    trainer.train()


@pytest.mark.parametrize("kind", ["pad is eos", "no pad"])
def test_pad_may_be_eos_or_missing(tmp_path: Path, kind: str) -> None:
    """An answer then ends with one eos, which is a token of it; what is behind it is none."""
    model, tokenizer = tiny_policy()
    tokenizer.pad_token = tokenizer.eos_token if kind == "pad is eos" else None
    trainer = make_trainer(
        tmp_path, PersonalizedReward(Words()), model=model, tokenizer=tokenizer, standardize_rewards=True,
        max_completion_length=8, missing_eos_penalty=1.0,
    )  # fmt: skip
    trainer.train()
    for batch in trainer._buffered_inputs:
        for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True):
            answer = ids[mask.bool()].tolist()
            assert tokenizer.eos_token_id not in answer[:-1] and answer
    assert len(trainer.history) == 2


def test_scales_are_fitted_before_training(tmp_path: Path) -> None:
    reward = PersonalizedReward(Words())
    trainer = make_trainer(tmp_path, reward, standardize_rewards=True, n_reference_completions=16)
    trainer.train()
    scales = reward.scales.scales
    assert set(scales) == {str(i) for i in range(40)} | {None}
    assert scales["3"].mean == pytest.approx(4 * scales["0"].mean)
    row = trainer.recorder.latest[0]
    expected = (row.raw_reward - scales[row.annotator_id].mean) / scales[row.annotator_id].std
    assert row.reward == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_saved_adapter_is_the_policy_alone_and_writes_the_same(tmp_path: Path, critic: str) -> None:
    trainer = make_trainer(tmp_path, PersonalizedReward(Words()), critic=critic)
    trainer.train()
    trainer.save_model()
    assert not (tmp_path / "critic").exists()
    base, tokenizer = tiny_policy()
    ids = torch.tensor([tokenizer("the garden is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        untrained = base(ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()
        trained = trainer.model.eval()(ids).logits
        assert torch.allclose(loaded(ids).logits, trained, atol=1e-6)
    assert list(loaded.peft_config) == ["default"]
    assert not torch.allclose(trained, untrained, atol=1e-4)


def test_a_whole_policy_trains_and_saves_without_its_critic(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model, tokenizer = tiny_policy()
    model.save_pretrained(tmp_path / "base")
    model.name_or_path = model.config._name_or_path = str(tmp_path / "base")
    trainer = make_trainer(
        tmp_path, PersonalizedReward(Words()), model=model, tokenizer=tokenizer, peft_config=None, critic="layers:1",
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    for folder in (tmp_path / "checkpoint-2",):
        assert not any(name.startswith("critic") for name in load_file(folder / "model.safetensors"))
        assert any(name.startswith("critic.body") for name in load_file(folder / "critic.safetensors"))
    with pytest.raises(ValueError, match="the policy has no adapter"):
        make_trainer(tmp_path, model=model, tokenizer=tokenizer, peft_config=None)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("critic", ["lora", "layers:1"])
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_resumed_is_uninterrupted(tmp_path: Path, critic: str, stop: int) -> None:
    """Two rollouts an epoch, two steps on each: at the end of a rollout and within one."""

    def made(folder: Path) -> PALPPOTrainer:
        return make_trainer(
            folder, PersonalizedReward(Words()), critic=critic, num_iterations=2, max_steps=8, save_strategy="steps",
            save_steps=1, kl_target=0.5, kl_horizon=50.0, train_dataset=named_rows(20), standardize_rewards=True,
            learning_rate=1e-3,
        )  # fmt: skip

    whole = made(tmp_path / "whole")
    whole.train()
    first = made(tmp_path / "part")
    step = first.training_step

    def stopping(*args: Any) -> Any:
        if first.state.global_step == stop:
            raise Stopped
        return step(*args)

    first.training_step = stopping
    with pytest.raises(Stopped):
        first.train()
    torch.manual_seed(99)
    resumed = made(tmp_path / "part")
    resumed.train(resume_from_checkpoint=True)
    for (name, found), (_, expected) in zip(
        resumed.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0, msg=name)
    assert resumed.kl_coef == pytest.approx(whole.kl_coef) != 0.05
    assert [row["objective/kl"] for row in resumed.history] == pytest.approx(
        [row["objective/kl"] for row in whole.history]
    )


def test_the_coefficient_follows_its_target(tmp_path: Path) -> None:
    """A KL of 0 is beyond 20 % below any target: 8 completions of a horizon of 80 take .2·8/80 = 2 % off."""
    trainer = make_trainer(tmp_path, learning_rate=0.0, kl_target=1.0, kl_horizon=80.0, kl_coef=0.1, max_steps=2)
    trainer.train()
    assert [row["objective/kl_coef"] for row in trainer.history] == pytest.approx([0.1, 0.098])
    assert trainer.kl_coef == pytest.approx(0.1 * 0.98**2)


def test_collapse_stops_training_and_goes_back(tmp_path: Path) -> None:
    """The second rollout is beyond the limit: the policy ends as it drew the first."""
    trainer = make_trainer(
        tmp_path, PersonalizedReward(Words()), max_steps=10, max_kl=1e-4, stop_patience=1, learning_rate=0.3
    )
    start = {name: p.detach().clone() for name, p in trainer._trainable_parameters().items()}
    trainer.train()
    assert len(trainer.history) == 2
    assert abs(trainer.history[0]["objective/kl"]) <= 1e-4 < trainer.history[1]["objective/kl"]
    assert "above max_kl=0.0001" in trainer.guard.stop_reason
    for name, p in trainer._trainable_parameters().items():
        assert torch.equal(p, start[name])


def test_a_run_that_the_guard_stopped_is_not_trained_further(tmp_path: Path) -> None:
    kept = {"save_strategy": "steps", "save_steps": 1, "max_steps": 6, "stop_patience": 2}
    steps = []
    for resume in (False, True):
        trainer = make_trainer(tmp_path, PersonalizedReward(Words()), **kept)
        train_beyond_the_limit(trainer, 2, resume)
        steps.append(trainer.state.global_step)
        assert trainer.guard.stop_reason.startswith("update 3: ")
    assert steps == [4, 4]


def test_guard_by_hand() -> None:
    guard, parameter = (
        CollapseGuard(max_kl=5.0, max_empty_fraction=0.5, patience=2),
        torch.nn.Parameter(torch.zeros(1)),
    )
    for step, (kl, empty, value) in enumerate([(1, 0, 1.0), (2, 0, 2.0), (9, 0, 3.0), (1, 0.6, 4.0)], 1):
        parameter.data.fill_(value)  # the weights after the update; what was measured are those before it
        warning = guard.watch(step, kl, empty)
        assert (warning is None) == (step <= 2)
        if warning is None:
            guard.keep({"p": parameter})
    assert guard.stop_reason == "update 4: 60% of the completions are empty, above max_empty_fraction=0.5"
    assert guard.restore({"p": parameter}) and parameter.item() == 1.0  # measured within the limits by update 2
    assert CollapseGuard(5.0, 0.5, 1).watch(1, float("nan"), 0.0)
    assert not CollapseGuard(5.0, 0.5, 1).restore({})
    measured = CollapseGuard(5.0, 0.5, 1)
    measured.keep({"p": parameter}, are_good=True)
    parameter.data.fill_(9.0)
    assert measured.restore({"p": parameter}) and parameter.item() == 1.0


def test_gradient_checkpointing_computes_again_under_each_adapter(tmp_path: Path) -> None:
    found = []
    for asked in (False, True):
        trainer = make_trainer(
            tmp_path / str(asked), PersonalizedReward(Words()), gradient_checkpointing=asked, num_iterations=2,
            max_steps=4, seed=1,
        )  # fmt: skip
        trainer.train()
        found.append({name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad})
    for name, values in found[0].items():
        torch.testing.assert_close(found[1][name], values, atol=1e-6, rtol=1e-5, msg=name)
    assert any(v.abs().max() > 0 for name, v in found[1].items() if "lora_B.critic" in name)


def test_the_critics_learning_rate(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PersonalizedReward(Words()), learning_rate=1e-3, critic_learning_rate=1e-2)
    trainer.create_optimizer()
    named = {id(p): name for name, p in trainer.model.named_parameters()}
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            is_critics = "critic" in named[id(parameter)]
            assert group["lr"] == (1e-2 if is_critics else 1e-3)


def test_people_are_served_by_their_dominant_prototype_or_a_draw() -> None:
    weights = np.tile([0.2, 0.5, 0.3], (3000, 1))
    assert set(choose_prototypes(weights)) == {1}
    drawn = choose_prototypes(weights, draw=True, seed=0)
    assert np.bincount(drawn) / 3000 == pytest.approx([0.2, 0.5, 0.3], abs=0.03)


def test_nan_reward_stops_with_the_row(tmp_path: Path) -> None:
    class Broken:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            return torch.full((len(prompts),), float("nan"))

    with pytest.raises(RuntimeError, match=r"gave nan to row \d.*annotator '\d+'.*person \d+ asks"):
        make_trainer(tmp_path, PersonalizedReward(Broken()), max_completion_length=8).train()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"critic": "tree"}, r"critic is 'tree'; give 'lora', 'head', 'full' or 'layers:N'"),
        ({"critic": "layers:0"}, r"critic is 'layers:0'"),
        ({"gamma": 1.5}, r"gamma=1.5 must be from 0 to 1"),
        ({"kl_target": 0.0}, r"kl_target=0.0 must be above 0"),
        ({"use_liger_kernel": True}, r"use_liger_kernel is true"),
        ({"per_device_train_batch_size": 1}, r"A rollout of one completion"),
        ({"num_mini_batches": 3}, r"num_mini_batches=3 does not divide"),
    ],
)
def test_bad_options(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ppo_config(tmp_path, **changes)


def test_a_critic_of_more_layers_than_the_policy_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"critic is 'layers:2', and the policy has 1 layers"):
        make_trainer(tmp_path, critic="layers:2")


def test_rows_that_fill_no_batch_are_refused(tmp_path: Path) -> None:
    model, tokenizer = tiny_policy()
    with pytest.raises(ValueError, match=r"6 rows, and a batch is 8 completions .*Give at least 8 rows"):
        PALPPOTrainer(
            model, PersonalizedReward(IdReward()), ppo_config(tmp_path), tokenizer, named_rows(6), peft_config=lora(4)
        )


def test_former_names_are_taken_with_a_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """64 rollouts in four mini-batches, twice: eight steps of 16; 5,120 episodes are 80 rollouts."""
    args = PALPPOConfig(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=64, total_episodes=5120,
        num_mini_batches=4, num_ppo_epochs=2, response_length=24, cliprange=0.1, value_model_layers=1,
        num_sample_generations=4, report_to="none",
    )  # fmt: skip
    assert (args.per_device_train_batch_size, args.gradient_accumulation_steps, args.steps_per_generation) == (
        16,
        1,
        4,
    )
    assert (args.num_iterations, args.max_completion_length, args.epsilon, args.critic) == (2, 24, 0.1, "layers:1")
    assert args.max_steps == 80 * 8 and args.num_generations == 1
    said = [record.getMessage() for record in caplog.records]
    for name in ("total_episodes", "num_mini_batches", "num_ppo_epochs", "response_length", "value_model_layers"):
        assert sum(line.startswith(f"{name}=") for line in said) == 1
