"""PALGRPOTrainer and PALRLOOTrainer in one process: whose reward, what moves, metrics, guard, saving, messages."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel

from palign.conditioning import WhoIsAsking
from palign.rewards import PersonalizedReward
from palign.trainers.grpo.reward import RecordedReward
from palign.trainers.pal_grpo_config import PALGRPOConfig, PALRLOOConfig
from palign.trainers.pal_grpo_trainer import PALGRPOTrainer
from tests.worlds.group_policy import ALGORITHMS, grpo_config, make_trainer
from tests.worlds.lora import lora
from tests.worlds.tiny_policy import (
    IdReward,
    named_rows,
    tiny_policy,
    train_beyond_the_limit,
    went_back_at,
    wrong_pairings,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant {% endif %}"
)


class Length:
    """Person i gives (1 + i) times the length of the text."""

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        return torch.tensor([len(c) * (1.0 + float(i)) for c, i in zip(completions, annotator_ids, strict=True)])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_completion_is_rewarded_by_the_person_its_prompt_names(tmp_path: Path, algorithm: str) -> None:
    """Two generations of 16 completions, each used for two updates; a group of four is for one person."""
    trainer = make_trainer(tmp_path, algorithm, steps_per_generation=2, max_steps=4)
    trainer.train()
    assert [len(call) for call in trainer.seen] == [16, 16]
    rows = [row for call in trainer.seen for row in call]
    assert wrong_pairings(rows) == 0
    groups = [{row.reward for row in rows[start : start + 4]} for start in range(0, 32, 4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 8


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_logged_rewards_are_the_means_of_what_was_seen(tmp_path: Path, algorithm: str) -> None:
    trainer = make_trainer(tmp_path, algorithm, judge=lambda text, person: 2 * float(person))
    trainer.train()
    assert [logs["step"] for logs in trainer.history] == [1, 2]
    for logs, call in zip(trainer.history, trainer.seen, strict=True):
        rewards = [row.reward for row in call]
        assert logs["objective/reward"] == logs["objective/raw_reward"] == pytest.approx(np.mean(rewards))
        assert logs["reward"] == logs["rewards/personalized_reward/mean"] == pytest.approx(np.mean(rewards))
        assert logs["objective/gold"] == pytest.approx(2 * np.mean(rewards))
        for name, remainder in (("even", 0), ("odd", 1)):
            own = [reward for reward in rewards if reward % 2 == remainder]
            assert (f"groups/{name}/reward" in logs) == bool(own)
            if own:
                assert logs[f"groups/{name}/reward"] == pytest.approx(np.mean(own))


def test_kl_is_in_nats_per_completion(tmp_path: Path) -> None:
    """TRL's `kl` is the mean over tokens; times tokens per completion it is that over completions."""
    trainer = make_trainer(tmp_path, reward=PersonalizedReward(Length()), max_steps=3, learning_rate=0.1)
    trainer.train()
    assert trainer.history[0]["objective/kl"] == 0.0 and trainer.history[2]["objective/kl"] > 0
    for logs in trainer.history:
        assert logs["objective/kl"] == pytest.approx(logs["kl"] * logs["completions/mean_length"])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_without_beta_no_kl_is_measured(tmp_path: Path, algorithm: str) -> None:
    trainer = make_trainer(tmp_path, algorithm, beta=0.0)
    trainer.train()
    assert len(trainer.history) == 2 and all("objective/kl" not in logs for logs in trainer.history)
    assert trainer.guard.stop_reason is None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_only_the_adapter_moves(tmp_path: Path, algorithm: str) -> None:
    trainer = make_trainer(tmp_path, algorithm, PersonalizedReward(Length()))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    moved = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert any("lora_B" in name for name in moved) and all("lora_" in name for name in moved)
    assert all(torch.isfinite(value).all() for value in trainer.model.state_dict().values())


def test_the_policy_is_told_who_asks_and_the_reward_is_not(tmp_path: Path) -> None:
    prompts: list[str] = []

    class Listening(IdReward):
        def score(self, given: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            prompts.extend(given)
            return super().score(given, completions, annotator_ids)

    who = WhoIsAsking.from_weights([str(i) for i in range(40)], np.eye(3)[np.arange(40) % 3])
    trainer = make_trainer(
        tmp_path,
        reward=PersonalizedReward(Listening()),
        who=who,
        policy_conditioning="prompt",
        max_completion_length=8,
    )
    trainer.train()
    rows = [row for call in trainer.seen for row in call]
    assert all(
        row.query.startswith(f"[reader: type {int(row.reward) % 3}] person ") for row in rows if row.reward >= 0
    )
    assert prompts and all(prompt.startswith("person ") for prompt in prompts)
    with pytest.raises(ValueError, match="no `who` was given"):
        make_trainer(tmp_path, policy_conditioning="prompt")


def test_scales_are_fitted_on_reference_completions_before_training(tmp_path: Path) -> None:
    reward = PersonalizedReward(Length())
    trainer = make_trainer(tmp_path, reward=reward, standardize_rewards=True, n_reference_completions=20)
    trainer.train()
    scales = reward.scales.scales
    assert set(scales) == {str(i) for i in range(40)} | {None}
    assert scales["3"].mean == pytest.approx(4 * scales["0"].mean)  # person 3 gives four times what person 0 gives
    assert scales["3"].std == pytest.approx(4 * scales["0"].std)
    for row in trainer.recorder.latest:
        expected = (row.raw_reward - scales[row.annotator_id].mean) / scales[row.annotator_id].std
        assert row.reward == pytest.approx(expected, abs=1e-5)
    again = PersonalizedReward(Length())
    make_trainer(tmp_path, reward=again, standardize_rewards=True, n_reference_completions=20).fit_reward_scales()
    assert again.scales.scales == scales  # the same completions whenever they are drawn


def test_what_does_not_end_pays_and_the_log_says_both() -> None:
    """Rewards 3 and 5; the second completion ends in neither 0 nor 1, and pays 0.5."""
    logged: dict[str, float] = {}
    recorded = RecordedReward(PersonalizedReward(IdReward()), stop_ids=(0, 1, None), missing_eos_penalty=0.5)
    recorded.accelerator = Accelerator(cpu=True)
    rewards = recorded(
        prompts=["p", "q"], completions=["a", [{"role": "assistant", "content": " b "}]],
        completion_ids=[[7, 1], [7, 8]], annotator_id=["3", "5"], reward_prompt=["p", "q"],
        log_metric=logged.__setitem__, trainer_state=None,
    )  # fmt: skip
    assert rewards == [3.0, 4.5]
    assert logged["objective/reward"] == 4.0 and logged["completions/empty_fraction"] == 0.0
    assert [row.completion for row in recorded.latest] == ["a", "b"]


def test_conversations_reach_the_reward_as_its_tokenizer_renders_them(tmp_path: Path) -> None:
    seen: list[tuple[str, str]] = []

    class Listening(IdReward):
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            seen.extend(zip(prompts, completions, strict=True))
            return super().score(prompts, completions, annotator_ids)

    rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in named_rows()]
    model, tokenizer = tiny_policy()
    tokenizer.chat_template = CHAT
    who = WhoIsAsking.from_weights([str(i) for i in range(40)], np.eye(2)[np.arange(40) % 2])
    args = grpo_config(tmp_path, policy_conditioning="prompt", max_steps=1, max_completion_length=8)
    reward = PersonalizedReward(Listening())
    trainer = PALGRPOTrainer(model, reward, args, tokenizer, rows, who=who, peft_config=lora(4))
    assert trainer.train_rows.dataset[1]["prompt"][0] == {"role": "system", "content": "The reader is type 1."}
    trainer.train()
    assert seen and all(p.startswith("user person ") and p.endswith("assistant ") for p, _ in seen)


def test_collapse_stops_training_and_goes_back(tmp_path: Path) -> None:
    """Update 2 is beyond the limit: training stops there, with the weights from before update 1."""
    trainer = make_trainer(
        tmp_path, reward=PersonalizedReward(Length()), max_steps=10, max_kl=1e-4, stop_patience=1, learning_rate=0.3
    )
    start = {name: p.detach().clone() for name, p in trainer._trainable_parameters().items()}
    trainer.guard.keep(trainer._trainable_parameters())  # as if an update before had been within the limits
    trainer.train()
    assert len(trainer.history) == trainer.state.global_step == 2
    assert trainer.history[0]["objective/kl"] <= 1e-4 < trainer.history[1]["objective/kl"]
    assert "above max_kl=0.0001" in trainer.guard.stop_reason
    for name, p in trainer._trainable_parameters().items():
        assert torch.equal(p, start[name])


def test_nan_reward_stops_with_the_row(tmp_path: Path) -> None:
    class Broken:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            return torch.full((len(prompts),), float("nan"))

    with pytest.raises(RuntimeError, match=r"gave nan to row \d.*annotator '\d+'.*person \d+ asks"):
        make_trainer(tmp_path, reward=PersonalizedReward(Broken()), max_completion_length=8).train()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_saved_adapter_loads_with_plain_peft_and_writes_the_same(tmp_path: Path, algorithm: str) -> None:
    trainer = make_trainer(tmp_path, algorithm, PersonalizedReward(Length()))
    trainer.train()
    trainer.save_model()
    assert (tmp_path / "adapter_model.safetensors").exists() and (tmp_path / "tokenizer.json").exists()
    assert not list(tmp_path.glob("*.bin"))
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert f"trained by {algorithm.upper()} (TRL)" in card and f"- {algorithm}\n" in card and "| even |" in card
    base, tokenizer = tiny_policy()
    ids = torch.tensor([tokenizer("the garden is", add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        untrained = base(ids).logits
        loaded = PeftModel.from_pretrained(base, tmp_path).eval()(ids).logits
        trained = trainer.model.eval()(ids).logits
    assert torch.allclose(loaded, trained, atol=1e-6)
    assert not torch.allclose(loaded, untrained, atol=1e-3)


def test_whole_policy_needs_a_folder_for_its_reference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="made in the process.*--use_peft.*beta=0"):
        make_trainer(tmp_path, peft_config=None)
    trainer = make_trainer(tmp_path, reward=PersonalizedReward(Length()), peft_config=None, beta=0.0)
    before = trainer.model.model.embed_tokens.weight.detach().clone()
    trainer.train()
    assert not torch.equal(trainer.model.model.embed_tokens.weight, before)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path, algorithm: str) -> None:
    """Six updates, an epoch and a half, two on each generation; stopped between the two."""
    settings = {"max_steps": 6, "steps_per_generation": 2, "save_strategy": "steps", "save_steps": 1}
    settings["save_total_limit"] = None
    settings |= {"standardize_rewards": True, "n_reference_completions": 8, "train_dataset": named_rows(8)}
    whole = make_trainer(tmp_path / "whole", algorithm, PersonalizedReward(Length()), **settings)
    whole.train()
    shutil.copytree(tmp_path / "whole" / "checkpoint-3", tmp_path / "parts" / "checkpoint-3")
    torch.manual_seed(7)
    resumed = make_trainer(tmp_path / "parts", algorithm, PersonalizedReward(Length()), **settings)
    resumed.fit_reward_scales = lambda: pytest.fail("scales are in the checkpoint")
    resumed.train(resume_from_checkpoint=True)
    assert resumed.reward.scales == whole.reward.scales and len(whole.reward.scales) == 9  # and the population's
    for part in ("good_weights", "latest_weights"):
        ours, theirs = getattr(resumed.guard, part), getattr(whole.guard, part)
        assert ours.keys() == theirs.keys() != set()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)
    assert len(resumed.seen) == 1  # the last generation alone; that of updates 3 and 4 was in the checkpoint
    assert [logs["step"] for logs in resumed.history] == [1, 3, 5]
    for ours, theirs in zip(resumed.history, whole.history, strict=True):
        assert ours["objective/reward"] == pytest.approx(theirs["objective/reward"], abs=1e-6)
    expected = whole._trainable_parameters()
    for name, p in resumed._trainable_parameters().items():
        assert torch.allclose(p, expected[name], atol=1e-6), name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"prompt": "p", "annotator_id": "1"}, {"prompt": "p"}], "row 1: the column 'annotator_id'"),
        ([{"annotator_id": "1"}], "row 0: the column 'prompt'"),
        (
            [
                {"prompt": "p", "annotator_id": "1"},
                {"prompt": [{"role": "user", "content": "p"}], "annotator_id": "1"},
            ],
            "row 1, column 'prompt': it is a list of messages, and that of row 0 is a text",
        ),
    ],
)
def test_bad_rows(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, train_dataset=rows)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rows_that_fill_no_generation_are_refused(tmp_path: Path, algorithm: str) -> None:
    """Sixteen completions, four for each row: TRL would leave three rows out, and train nothing."""
    with pytest.raises(ValueError, match=r"3 rows, and a batch is 16 completions, 4 for each row .*at least 4 rows"):
        make_trainer(tmp_path, algorithm, train_dataset=named_rows(3), steps_per_generation=2)
    make_trainer(tmp_path, algorithm, train_dataset=named_rows(4), steps_per_generation=2)


def test_a_guard_that_counted_goes_on_counting(tmp_path: Path) -> None:
    """Beyond the limit in every update: stopped after the third, though the run was stopped after two."""
    settings = {"max_kl": -1.0, "stop_patience": 3, "save_strategy": "steps", "save_steps": 1}
    first = make_trainer(tmp_path, max_steps=2, **settings)
    first.train()
    assert first.guard.n_beyond == 2 and first.guard.stop_reason is None
    resumed = make_trainer(tmp_path, max_steps=6, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 3 and "update 3" in resumed.guard.stop_reason


def test_a_run_that_the_guard_stopped_stays_stopped(tmp_path: Path) -> None:
    """Stopped at the sixth of eight updates, logged at every second: resumed, it goes back and trains no more."""
    settings = {"max_steps": 8, "logging_steps": 2, "stop_patience": 1, "save_strategy": "steps", "save_steps": 2}
    for resume in (False, True, True):
        trainer = make_trainer(tmp_path, reward=PersonalizedReward(Length()), **settings)
        train_beyond_the_limit(trainer, 6, resume)
        went_back_at(6, trainer.guard, trainer.state.global_step, trainer._trainable_parameters())


def test_a_checkpoint_of_other_people_or_another_rate_is_refused(tmp_path: Path) -> None:
    """Of a run that ended within an epoch, and goes on only as what it was: it takes no further update."""
    settings = {"max_steps": 3, "train_dataset": named_rows(8), "save_strategy": "steps", "save_steps": 1}
    make_trainer(tmp_path, **settings).train()
    for change in ({"train_dataset": named_rows(9)[1:]}, {"learning_rate": 0.3}, {"per_device_train_batch_size": 4}):
        with pytest.raises(ValueError, match=f"of another run: .*{'rows' if 'train_dataset' in change else ''}.*now"):
            make_trainer(tmp_path, **settings | change).train(resume_from_checkpoint=True)
    again = make_trainer(tmp_path, **settings)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 3 and not again.seen


def test_checkpoints_are_kept_unless_refused(tmp_path: Path) -> None:
    """As docs/interruption.md says: ten a run, the last one kept."""
    for kind in (PALGRPOConfig, PALRLOOConfig):
        args = kind(output_dir=str(tmp_path), use_cpu=True)
        assert (args.save_strategy, args.save_steps, args.save_total_limit) == ("steps", 0.1, 1)


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop_patience=0"):
        grpo_config(tmp_path, stop_patience=0)
    with pytest.raises(ValueError, match="divisible by num_generations"):
        grpo_config(tmp_path, num_generations=3)


def test_values_that_run_without_a_gpu_need_not_be_given(tmp_path: Path) -> None:
    for kind in (PALGRPOConfig, PALRLOOConfig):
        args = kind(output_dir=str(tmp_path), use_cpu=True)
        assert not (args.bf16 or args.gradient_checkpointing or args.dataloader_pin_memory) and args.report_to == []
        assert kind(output_dir=str(tmp_path), use_cpu=True, bf16=True).bf16


def test_nothing_of_trls_ppo_is_imported() -> None:
    """As on a TRL without it: the module cannot be imported, and the version says so."""
    code = (
        "import sys, importlib.metadata as m\n"
        "sys.modules['trl.experimental.ppo'] = None\n"
        "real = m.version\n"
        "m.version = lambda name: '1.13.0' if name == 'trl' else real(name)\n"
        "import runpy; runpy.run_path('recipes/grpo_pal.py', run_name='recipe')\n"
        "print([name for name in sys.modules if 'ppo' in name and 'palign' in name and 'guard' not in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
