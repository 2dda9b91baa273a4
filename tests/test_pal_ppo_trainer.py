"""PALPPOTrainer in one process: pairing, what moves, guards, metrics, samples, saving, and messages."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from ppo_helpers import IdReward, SpyReward, lora, named_rows, ppo_config, tiny_policy, wrong_pairings
from tokenizers.processors import TemplateProcessing

from palign.conditioning import WhoIsAsking
from palign.rewards import PersonalizedReward
from palign.trainers import trl_ppo
from palign.trainers.pal_ppo_adapters import train_prototype_adapters
from palign.trainers.pal_ppo_trainer import PALPPOTrainer
from palign.trainers.ppo_guard import CollapseGuard
from palign.trainers.ppo_metrics import TABLE_METRICS, correct_table_metrics
from palign.trainers.prototype_adapters import choose_prototypes
from palign.trainers.value_model import make_value_model


def make_trainer(output_dir: Path, reward: PersonalizedReward | None = None, **changes: Any) -> PALPPOTrainer:
    model, tokenizer = tiny_policy()
    extra = {name: changes.pop(name) for name in ("eval_dataset", "who", "peft_config") if name in changes}
    reward = reward or SpyReward(IdReward())
    extra = {"peft_config": lora(), **extra}
    return PALPPOTrainer(model, reward, ppo_config(output_dir, **changes), tokenizer, named_rows(), **extra)


def test_every_scored_row_belongs_to_the_person_its_prompt_names(tmp_path: Path) -> None:
    """Chunks of 3, 3 and 2; an eval pass after each update; a loader that runs one batch ahead."""
    trainer = make_trainer(tmp_path, eval_dataset=named_rows(8), num_sample_generations=2)
    trainer.train()
    socket = trainer.socket
    assert socket.chunk_sizes == [3, 3, 2, 4, 3, 3, 2, 4]
    assert socket.n_bound == socket.n_consumed == len(socket.seen) == 2 * 8 + 2 * 4
    assert wrong_pairings(socket.seen) == 0
    assert len({row.reward for row in socket.seen}) > 8  # not one person over and over


def test_the_policy_reads_bos_where_its_tokenizer_puts_it(tmp_path: Path) -> None:
    model, tokenizer = tiny_policy()
    bos = [("<bos>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=bos)
    reward, args = SpyReward(IdReward()), ppo_config(tmp_path, total_episodes=8)
    trainer = PALPPOTrainer(model, reward, args, tokenizer, named_rows(), peft_config=lora())
    trainer.train()
    assert all(row.query.startswith("<bos> person ") for row in trainer.socket.seen)
    assert len(trainer.socket.seen) == 8 and wrong_pairings(trainer.socket.seen) == 0


def test_eval_rows_that_do_not_fill_a_batch_are_scored(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, eval_dataset=named_rows(5))
    assert [row.annotator_id for row in trainer._score_eval_rows(False)] == ["0", "1", "2", "3", "4"]  # 4 a batch


def test_rows_that_fill_no_batch_are_refused(tmp_path: Path) -> None:
    """TRL's loop would ask for a batch of eight for ever."""
    model, tokenizer = tiny_policy()
    with pytest.raises(ValueError, match=r"6 rows, and a batch is 8 completions .*Give at least 8 rows"):
        PALPPOTrainer(model, SpyReward(IdReward()), ppo_config(tmp_path), tokenizer, named_rows(6))


def test_scores_in_the_log_are_the_peoples(tmp_path: Path) -> None:
    """`objective/scores` is the mean of the rewards less the penalty for completions that do not end."""
    trainer = make_trainer(tmp_path, missing_eos_penalty=None)
    trainer.train()
    for update, logs in enumerate(trainer.history):
        rewards = [row.reward for row in trainer.socket.seen[8 * update : 8 * update + 8]]
        assert logs["objective/scores"] == pytest.approx(np.mean(rewards))
        assert logs["objective/raw_reward"] == pytest.approx(np.mean(rewards))
        even = [r for r in rewards if r % 2 == 0]
        assert logs["groups/even/reward"] == pytest.approx(np.mean(even))
    assert [logs["step"] for logs in trainer.history] == [1, 2]


def test_only_the_adapter_and_the_value_model_move(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("lora_B" in name for name in moved)
    assert any(name.startswith("value_model.") for name in moved)
    assert all("lora_" in name or name.startswith(("value_model.", "critic_backbone.")) for name in moved)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_the_policy_is_told_who_asks_and_the_reward_is_not(tmp_path: Path) -> None:
    who = WhoIsAsking.from_weights([str(i) for i in range(40)], np.eye(3)[np.arange(40) % 3])
    trainer = make_trainer(tmp_path, who=who, policy_conditioning="prompt")
    assert trainer.train_rows.prompts[7] == "person 7 asks about the garden"
    ids = trainer.train_rows.dataset[7]["input_ids"]
    assert trainer.processing_class.decode(ids).strip() == "[reader: type 1] person 7 asks about the garden"
    trainer.train()
    assert wrong_pairings(trainer.socket.seen) == 0
    with pytest.raises(ValueError, match="no `who` was given"):
        make_trainer(tmp_path, policy_conditioning="prompt")


def test_scales_are_fitted_on_reference_completions_before_training(tmp_path: Path) -> None:
    class Length:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            return torch.tensor([len(c) * (1.0 + float(i)) for c, i in zip(completions, annotator_ids, strict=True)])

    reward = PersonalizedReward(Length())
    trainer = make_trainer(tmp_path, reward, standardize_rewards=True, n_reference_completions=16)
    trainer.train()
    scales = reward.scales.scales
    assert set(scales) == {str(i) for i in range(40)} | {None}
    assert scales["3"].mean == pytest.approx(4 * scales["0"].mean)  # person 3 gives four times what person 0 gives
    assert scales["3"].std == pytest.approx(4 * scales["0"].std)
    assert trainer.history[0]["objective/raw_reward"] != trainer.history[0]["objective/reward"]
    row = trainer._latest_rows[0]
    expected = (row.raw_reward - scales[row.annotator_id].mean) / scales[row.annotator_id].std
    assert row.reward == pytest.approx(expected, abs=1e-5)


def test_saved_adapter_loads_with_plain_peft_and_writes_the_same(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists() and (tmp_path / "tokenizer.json").exists()
    base, tokenizer = tiny_policy()
    ids = torch.tensor([tokenizer("the garden is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        untrained = base(ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()(ids).logits
        trained = trainer.model.policy(ids).logits
    assert torch.allclose(loaded, trained, atol=1e-6)
    assert not torch.allclose(loaded, untrained, atol=1e-3)


def test_whole_policy_trains_and_saves_without_an_adapter(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, peft_config=None, save_strategy="steps", save_steps=1)
    reference = {name: value.clone() for name, value in trainer.ref_model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, reference[name]) for name, value in trainer.ref_model.state_dict().items())
    assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
    assert wrong_pairings(trainer.socket.seen) == 0


def test_gradients_are_clipped_in_the_optimizer_step(tmp_path: Path) -> None:
    """The norm, by independent code right before the step: at the limit, and far above it without clipping."""
    norms: dict[float, list[float]] = {}
    for limit in (1e-3, 0.0):
        trainer = make_trainer(tmp_path, max_grad_norm=limit)
        inner, seen = trainer.optimizer.optimizer, norms.setdefault(limit, [])

        def measure(optimizer: Any, *_: Any, seen: list[float] = seen) -> None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            seen.append(sum(float((g**2).sum()) for g in gradients) ** 0.5)

        inner.register_step_pre_hook(measure)
        trainer.train()
    assert len(norms[1e-3]) == 2
    assert max(norms[1e-3]) == pytest.approx(1e-3, rel=1e-3)
    assert min(norms[0.0]) > 1e-2


def test_collapse_stops_training_and_goes_back(tmp_path: Path) -> None:
    """The rollouts of update 2 are beyond the limit: training stops there, with the weights from before update 1."""
    trainer = make_trainer(tmp_path, total_episodes=80, max_kl=1e-4, stop_patience=1, learning_rate=0.3)
    start = {name: p.detach().clone() for name, p in trainer._trainable_policy_parameters().items()}
    trainer.guard.keep(trainer._trainable_policy_parameters())  # as if an update before had been within the limits
    trainer.train()
    assert len(trainer.history) == 2  # of 10
    assert trainer.history[0]["objective/kl"] <= 1e-4 < trainer.history[1]["objective/kl"]
    assert "above max_kl=0.0001" in trainer.guard.stop_reason
    for name, p in trainer._trainable_policy_parameters().items():
        assert torch.equal(p, start[name])


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
    fresh = CollapseGuard(None, 0.5, 1)
    assert fresh.watch(1, 1e9, 0.5) is None


def test_nan_reward_stops_with_the_row(tmp_path: Path) -> None:
    class Broken:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            return torch.full((len(prompts),), float("nan"))

    with pytest.raises(RuntimeError, match=r"gave nan to row 0.*annotator '\d+'.*person \d+ asks"):
        make_trainer(tmp_path, PersonalizedReward(Broken())).train()


def test_statistics_are_averaged_over_the_cells_that_were_filled() -> None:
    """Two epochs, two mini-batches, table of 4 columns of which 2 are filled: by hand from the filled cells alone."""
    rng = np.random.default_rng(0)
    filled = rng.normal(1.0, 0.1, (2, 2, 2))
    table = np.concatenate([filled, np.zeros((2, 2, 2))], axis=2)
    args = SimpleNamespace(
        gradient_accumulation_steps=4, num_mini_batches=2, num_ppo_epochs=2, local_mini_batch_size=16,
        per_device_train_batch_size=8,
    )  # fmt: skip
    logs = {name: table.mean() for name in TABLE_METRICS} | {"val/ratio_var": table.var(ddof=1), "lr": 1.0}
    corrected = correct_table_metrics(logs, args, 1)
    assert corrected["val/ratio"] == pytest.approx(filled.mean())
    assert corrected["val/ratio_var"] == pytest.approx(filled.var(ddof=1))
    assert corrected["lr"] == 1.0
    args.local_mini_batch_size = 32
    assert correct_table_metrics(logs, args, 1) == logs


def test_ratio_is_one_with_mini_batches_and_accumulation(tmp_path: Path) -> None:
    trainer = make_trainer(
        tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=2, num_mini_batches=2, learning_rate=1e-6
    )
    trainer.train()
    assert trainer.history[0]["val/ratio"] == pytest.approx(1.0, abs=1e-3)  # .5 as TRL has it


def test_sample_table_shows_person_reward_completion_and_prompt(tmp_path: Path, capsys: Any) -> None:
    trainer = make_trainer(tmp_path, num_sample_generations=1, n_table_rows=3)
    trainer.train()
    table = capsys.readouterr().out.split("after update 1\n")[1].splitlines()
    assert table[0].split() == ["person", "group", "reward", "completion", "←", "prompt"]
    first = trainer.socket.seen[0]
    assert table[1].split()[0] == str(int(first.reward)) and f"person {int(first.reward)} asks" in table[1]


def test_one_adapter_per_prototype(tmp_path: Path) -> None:
    """Prototype 0 likes nothing, prototype 1 likes words: fixed weights reach the reward; adapters differ and load."""
    seen: list[list[float]] = []

    class ByPrototype:
        def score(self, prompts: Any, completions: Any, annotator_ids: Any, *, weights: torch.Tensor) -> torch.Tensor:
            assert annotator_ids is None
            seen.append(weights[0].tolist())
            return torch.tensor([float(len(c.split())) for c in completions]) * weights[:, 1]

    model, tokenizer = tiny_policy()
    args = ppo_config(tmp_path, total_episodes=32, policy_conditioning="adapter")
    trained = train_prototype_adapters(
        model, ByPrototype(), args, tokenizer, named_rows(), n_prototypes=2, peft_config=lora()
    )
    assert {tuple(weights) for weights in seen} == {(1.0, 0.0), (0.0, 1.0)}
    assert [len(history) for history in trained.histories] == [2, 2]
    assert list(trained.policy.peft_config) == ["type_0", "type_1"]
    ids, logits = torch.tensor([[5, 6, 7]]), {}
    for name in ("type_0", "type_1"):
        trained.policy.set_adapter(name)
        base, _ = tiny_policy()
        with torch.no_grad():
            logits[name] = trained.policy(ids).logits
            alone = PeftModel.from_pretrained(base, tmp_path / name).eval()(ids).logits
        assert torch.allclose(alone, logits[name], atol=1e-6)
    assert not torch.allclose(logits["type_0"], logits["type_1"], atol=1e-4)


def test_adapters_share_the_epochs_where_no_episodes_are_given(tmp_path: Path) -> None:
    """Two epochs of 40 rows are 80 episodes: 40 for each of two prototypes, in batches of 20."""

    class Constant:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: Any, weights: Any) -> torch.Tensor:
            return torch.zeros(len(prompts))

    model, tokenizer = tiny_policy()
    args = ppo_config(tmp_path, total_episodes=None, num_train_epochs=2, per_device_train_batch_size=20)
    trained = train_prototype_adapters(
        model, Constant(), args, tokenizer, named_rows(), n_prototypes=2, peft_config=lora()
    )
    assert [len(history) for history in trained.histories] == [2, 2]


def test_people_are_served_by_their_dominant_prototype_or_a_draw() -> None:
    weights = np.tile([0.2, 0.5, 0.3], (3000, 1))
    assert set(choose_prototypes(weights)) == {1}
    shares = np.bincount(choose_prototypes(weights, draw=True, seed=1), minlength=3) / 3000
    assert shares == pytest.approx([0.2, 0.5, 0.3], abs=0.04)  # four standard errors
    assert choose_prototypes(np.eye(3), draw=True).tolist() == [0, 1, 2]


def test_value_model_starts_at_zero_on_the_policys_body() -> None:
    model, _ = tiny_policy()
    value = make_value_model(model)
    states = value.model(torch.tensor([[5, 6]])).last_hidden_state
    assert torch.equal(states, model.model(torch.tensor([[5, 6]])).last_hidden_state)
    assert value.score(states).abs().max() == 0 and value.score(states).shape == (1, 2, 1)
    value.model.embed_tokens.weight.data.zero_()
    assert model.model.embed_tokens.weight.abs().max() > 0  # a copy


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"prompt": "p", "annotator_id": "1"}, {"prompt": "p"}], "row 1: the column 'annotator_id'"),
        ([{"annotator_id": "1"}], "row 0: the column 'prompt'"),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, str]], message: str) -> None:
    model, tokenizer = tiny_policy()
    with pytest.raises(ValueError, match=message):
        PALPPOTrainer(model, PersonalizedReward(IdReward()), ppo_config(tmp_path), tokenizer, rows)


def test_bad_tokenizers_and_arguments(tmp_path: Path) -> None:
    model, tokenizer = tiny_policy()
    tokenizer.padding_side = "right"
    with pytest.raises(ValueError, match="pads on the right"):
        PALPPOTrainer(model, PersonalizedReward(IdReward()), ppo_config(tmp_path), tokenizer, named_rows())
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    with pytest.raises(ValueError, match="must differ"):
        PALPPOTrainer(model, PersonalizedReward(IdReward()), ppo_config(tmp_path), tokenizer, named_rows())
    with pytest.raises(ValueError, match="stop_patience=0"):
        ppo_config(tmp_path, stop_patience=0)
    with pytest.raises(ValueError, match="max_empty_fraction=0"):
        ppo_config(tmp_path, max_empty_fraction=0)


@pytest.mark.parametrize("version", ["1.13.0", "1.13.0.dev0", "2.0"])
def test_a_trl_without_ppo_is_refused_on_import(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: version)
    for name in ("palign.trainers.pal_ppo_trainer", "palign.trainers.pal_ppo_config", "palign.trainers.pal_ppo_data"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError) as caught:
        importlib.import_module("palign.trainers.pal_ppo_trainer")
    message = str(caught.value)
    assert "up to 1.12.0 and gone from 1.13 on" in message and f"trl {version} is installed" in message
    assert "trl>=1.12,<1.13" in message and "reward_funcs=PersonalizedReward(model)" in message
    assert "recipes/grpo_pal.py" in message


def test_trl_versions_with_ppo_pass() -> None:
    trl_ppo.require_trl_ppo("1.12.0")
    trl_ppo.require_trl_ppo("1.12.3")


def test_gradient_checkpointing_bf16_and_max_steps_are_heeded(tmp_path: Path) -> None:
    """Layers run twice in an update (forward, recomputation) beside the rollout's passes; matrices in bfloat16."""
    types, n_layer_calls = [], {"with": 0, "without": 0}
    for name in n_layer_calls:
        options = {"gradient_checkpointing": name == "with", "bf16": name == "with"}
        trainer = make_trainer(tmp_path / name, max_steps=1, total_episodes=800, **options)
        both = trainer.model

        def count(module: Any, args: Any, output: torch.Tensor, name: str = name, both: Any = both) -> None:
            if both.training and (torch.is_grad_enabled() or torch._C._current_graph_task_id() >= 0):
                n_layer_calls[name] += 1
                types.append(output.dtype)

        projection = "self_attn.q_proj"
        both.policy.get_submodule(f"base_model.model.model.layers.0.{projection}").register_forward_hook(count)
        both.value_model.get_submodule(f"model.layers.0.{projection}").register_forward_hook(count)
        trainer.train()
        assert trainer.state.global_step == trainer.state.max_steps == 1
        assert trainer.accelerator.mixed_precision == ("bf16" if name == "with" else "no")
        assert set(types) == {torch.bfloat16 if name == "with" else torch.float32}
        types.clear()
    assert n_layer_calls == {"with": 4, "without": 2}


def test_the_environment_of_the_launcher_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    make_trainer(tmp_path, bf16=True)
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_trainer(tmp_path).accelerator.mixed_precision == "bf16"
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    with pytest.raises(ValueError, match="Give --bf16 true instead"):
        make_trainer(tmp_path, fp16=True)
