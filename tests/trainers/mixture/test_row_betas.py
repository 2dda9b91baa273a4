"""DPO's beta of each row: drawn by seed, read by the loss, written down, refused where it cannot work."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from palign.trainers.mixture.row_betas import check_row_betas, drawn_betas
from palign.trainers.mixture_dpo_config import MixtureDPOConfig
from palign.trainers.mixture_dpo_trainer import MixtureDPOTrainer
from tests.worlds.colour import colour_lm, colour_tokenizer, planted_rows
from tests.worlds.lora import lora


def pooled(folder: Path, rows: list[dict[str, Any]], row_betas: Any = None, **further: Any) -> MixtureDPOTrainer:
    args = MixtureDPOConfig(
        **{"output_dir": str(folder), "n_types": 1, "n_permutations": 0, "learning_rate": 1e-2, "max_steps": 2,
           "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True, "disable_tqdm": True} | further
    )  # fmt: skip
    return MixtureDPOTrainer(
        colour_lm(), args, rows, processing_class=colour_tokenizer(), peft_config=lora(), row_betas=row_betas
    )


def adapters_of(trainer: MixtureDPOTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.policies.policy.named_parameters() if "lora" in name}


def test_they_are_log_normal_about_beta_and_the_seed_decides() -> None:
    betas = drawn_betas(20_000, beta=0.1, spread=0.5, seed=3)
    logs = betas.log()
    assert abs(float(logs.mean()) - math.log(0.1)) < 4 * 0.5 / math.sqrt(20_000)  # four standard errors
    assert abs(float(logs.std()) - 0.5) < 4 * 0.5 / math.sqrt(2 * 20_000)
    assert abs(float((logs < math.log(0.1) - 0.5).double().mean()) - 0.1587) < 4 * math.sqrt(0.1587 * 0.8413 / 20_000)
    assert torch.equal(betas, drawn_betas(20_000, beta=0.1, spread=0.5, seed=3))
    assert not torch.equal(betas, drawn_betas(20_000, beta=0.1, spread=0.5, seed=4))


def test_the_loss_of_two_rows_with_two_betas_by_hand(tmp_path: Path) -> None:
    """Log-ratios of chosen and rejected: 1 and -1, then 3 and 1; betas .5 and 2. The rows share a completion."""
    prompt = "what colour is the hat?"
    a, b, c = (f" the hat is {colour}" for colour in ("red", "blue", "gold"))
    rows = [
        {"annotator_id": "x", "prompt": prompt, "chosen": a, "rejected": b},
        {"annotator_id": "y", "prompt": prompt, "chosen": c, "rejected": a},
    ]
    trainer = pooled(tmp_path, rows, np.array([0.5, 2.0]))
    trainer.prepare()
    batch = trainer.data_collator([0, 1])
    ratios = {text: ratio for text, ratio in zip((a, b, c), (1.0, -1.0, 3.0), strict=True)}
    said = [trainer.train_rows.items[item][1] for item in batch["items"].tolist()]
    assert len(said) == 3
    logps = trainer._reference_on_device[batch["items"]] + torch.tensor([ratios[text] for text in said])
    trainer.state.epoch = 0.0
    loss = trainer.compute_loss(lambda *_, **__: logps[:, None], batch)
    by_hand = (math.log1p(math.exp(-0.5 * 2.0)) + math.log1p(math.exp(-2.0 * 2.0))) / 2
    assert float(loss) == pytest.approx(by_hand, abs=1e-6)


def test_equal_betas_are_one_beta(tmp_path: Path) -> None:
    """And others are not: the adapters end elsewhere, and mixture.json says between what the betas lie."""
    rows, trained = planted_rows(4, 4), {}
    for name, betas in (("one", None), ("equal", np.full(16, 0.1)), ("other", np.repeat([0.5, 0.1, 0.02], [5, 6, 5]))):
        trainer = pooled(tmp_path / name, rows, betas, beta=0.1)
        trainer.train()
        trainer.save_model()
        trained[name] = adapters_of(trainer)
    for name, tensor in trained["one"].items():
        torch.testing.assert_close(trained["equal"][name], tensor, rtol=0, atol=1e-6)
    assert any(not torch.allclose(trained["other"][name], t, atol=1e-4) for name, t in trained["one"].items())
    record = json.loads((tmp_path / "other" / "mixture.json").read_text(encoding="utf-8"))
    assert record["row_betas"] == pytest.approx({"least": 0.02, "median": 0.1, "greatest": 0.5})
    assert "row_betas" not in json.loads((tmp_path / "one" / "mixture.json").read_text(encoding="utf-8"))


def test_a_checkpoint_of_other_betas_is_refused(tmp_path: Path) -> None:
    rows = planted_rows(4, 4)
    pooled(tmp_path, rows, np.full(16, 0.2), save_strategy="steps", save_steps=1).train()
    for betas in (None, np.full(16, 0.3)):
        again = pooled(tmp_path, rows, betas, save_strategy="steps", save_steps=1)
        with pytest.raises(ValueError, match="is of another run: row_betas"):
            again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


@pytest.mark.parametrize(
    ("betas", "further", "message"),
    [
        ([0.1], {}, r"shape \(1,\) .* each of the 2 rows"),
        ([[0.1, 0.1]], {}, r"shape \(1, 2\)"),
        ([], {}, "values from nothing to nothing"),
        ([0.1, 0.0], {}, "values from 0 to 0.1; give one positive"),
        ([0.1, float("inf")], {}, "to inf"),
        ([0.1, float("nan")], {}, "nan"),
        ([0.1, 0.2], {"n_types": 2}, "for one adapter, and n_types is 2"),
        ([0.1, 0.2], {"n_types": None}, "n_types is None"),
        ([0.1, 0.2], {"types_from": "cluster"}, "with types_from 'cluster'"),
    ],
)
def test_what_cannot_work_is_said(betas: list[Any], further: dict[str, Any], message: str) -> None:
    args = SimpleNamespace(**{"n_types": 1, "types_from": "em", "device": "cpu"} | further)
    with pytest.raises(ValueError, match=message):
        check_row_betas(betas, 2, args)
