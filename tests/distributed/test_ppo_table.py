"""PPO's sample table on two processes: rows that do not fill a batch on each of them are shown all the same."""

from pathlib import Path
from typing import Any

from ppo_helpers import IdReward, SpyReward, lora, named_rows, ppo_config, tiny_policy, wrong_pairings
from ranks import run_ranks

from palign.trainers.pal_ppo_trainer import PALPPOTrainer


def shown(folder: str) -> dict[str, Any]:
    """Five eval rows and an eval batch of eight."""
    model, tokenizer = tiny_policy()
    args = ppo_config(folder, per_device_eval_batch_size=8)
    trainer = PALPPOTrainer(
        model, SpyReward(IdReward()), args, tokenizer, named_rows(), eval_dataset=named_rows(5), peft_config=lora()
    )
    people = [row.annotator_id for row in trainer._score_eval_rows(True)]
    return {"people": people, "wrong": wrong_pairings(trainer.socket.seen)}


def test_all_rows_are_in_the_table(tmp_path: Path) -> None:
    for rank in run_ranks(shown, tmp_path / "ranks", str(tmp_path / "out")):
        assert rank["wrong"] == 0
        assert set(rank["people"]) == {"0", "1", "2", "3", "4"}
