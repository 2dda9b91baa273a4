"""TRL's GRPO with an exported folder as its reward model."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import palign  # noqa: F401  (the Auto classes know the exported class)
from palign.models.classifier.export import export_classifier
from palign.models.tiny import make_tiny_lm
from tests.models.classifier.test_export import chat_model


def test_rewards_as_trl_computes_them_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = chat_model()
    export_classifier(model, tmp_path / "r", weights=model.weights_for(["p1"])[0])
    seen = []
    inner = GRPOTrainer._calculate_rewards

    def watched(self, inputs, prompts, completions, *rest):
        rewards = inner(self, inputs, prompts, completions, *rest)
        seen.append((prompts, completions, rewards.detach().cpu()))
        return rewards

    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", watched)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": text}]} for text in ("ask 0", "kind", "Qwen")])
    args = GRPOConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=4, num_generations=2,
        max_completion_length=6, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    torch.manual_seed(0)
    policy = make_tiny_lm(model.tokenizer, hidden_size=16, n_layers=1)
    trainer = GRPOTrainer(
        model=policy, processing_class=model.tokenizer, reward_funcs=str(tmp_path / "r"), args=args, train_dataset=rows
    )
    trainer.train()
    assert seen and trainer.reward_func_names == ["r"]
    for prompts, completions, rewards in seen:
        wanted = model.score(prompts, completions, "p1").cpu()
        torch.testing.assert_close(rewards[:, 0], wanted, atol=1e-4, rtol=1e-4)
