"""Every trainer shows its own card, and pushes nobody's e-mail address."""

import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from transformers import Trainer

from palign import MixtureDPOConfig, MixtureDPOTrainer, PALRewardConfig, PALRewardTrainer, push_folder
from palign.data.annotators import AnnotatorIndex
from palign.data.preferences import Preferences
from palign.rewards import PersonalizedReward
from tests.worlds.colour import colour_lm, colour_tokenizer
from tests.worlds.group_policy import make_trainer
from tests.worlds.lora import lora
from tests.worlds.planted import TRAIN, colour_rows
from tests.worlds.reward_models import text_model, text_rows, vector_model
from tests.worlds.tiny_policy import IdAndLength

QUIET = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
NAMED = [row | {"annotator_id": f"ann{i % 3}@example.org"} for i, row in enumerate(text_rows(12))]


def reward_trainer(folder: Path, **changes: Any) -> PALRewardTrainer:
    model = text_model(annotators=AnnotatorIndex(dict.fromkeys(row["annotator_id"] for row in NAMED)), n_prototypes=2)
    args = PALRewardConfig(output_dir=str(folder), head_epochs=1, **QUIET | changes)
    return PALRewardTrainer(model, args, Preferences.from_rows(NAMED))


def mixture_trainer(folder: Path) -> MixtureDPOTrainer:
    args = MixtureDPOConfig(output_dir=str(folder), n_types=2, n_permutations=0, n_restarts=2, **QUIET)
    return MixtureDPOTrainer(
        colour_lm(), args, colour_rows(TRAIN), processing_class=colour_tokenizer(), peft_config=lora()
    )


def policy_trainer(folder: Path) -> Any:
    return make_trainer(folder, "grpo", PersonalizedReward(IdAndLength(), standardize=False), max_steps=1)


@pytest.mark.parametrize(
    ("make", "title"),
    [
        (reward_trainer, "# PAL reward model"),
        (mixture_trainer, "# Mixture of 2 preference types"),
        (policy_trainer, "# Policy trained on personal rewards"),
    ],
)
def test_the_card_is_ours(make: Any, title: str, tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.create_model_card(model_name="x", dataset_name="y", tags=["z"])
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert title in card and "## Fairness" in card and "example.org" not in card


def pushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What transformers would have been asked to push."""
    calls: list[str] = []
    monkeypatch.setattr(Trainer, "push_to_hub", lambda self, *a, **k: calls.append(self.args.output_dir))
    return calls


def test_e_mail_addresses_are_not_pushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pushed(monkeypatch)
    with pytest.raises(ValueError, match=r"3 annotator ids look like e-mail addresses \(a…@example.org.*--pseudonyms"):
        reward_trainer(tmp_path).push_to_hub()
    assert calls == []
    reward_trainer(tmp_path, push_personal_ids=True).push_to_hub()
    assert calls == [str(tmp_path)]


def test_a_run_that_would_push_them_does_not_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, *a, **k: None)
    with pytest.raises(ValueError, match="--push_personal_ids true"):
        reward_trainer(tmp_path, push_to_hub=True)


def test_a_reward_model_is_pushed_under_pseudonyms_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palign.models.files.pal.push_model", lambda *_: "address")
    model = vector_model(annotators=AnnotatorIndex(["ann@example.org", "b"]))
    with pytest.raises(ValueError, match="allow_personal_ids=True"):
        model.push_to_hub("me/pal")
    assert model.push_to_hub("me/pal", allow_personal_ids=True) == "address"
    assert vector_model().push_to_hub("me/pal") == "address"


@pytest.mark.parametrize(
    ("person", "is_refused"),
    [("ann@example.org", True), (" Ann.B+c@mail.example.museum ", True), ("ann@example", False), ("a@b.c1", False),
     ("@ann.org", False)],
)  # fmt: skip
def test_every_way_to_push_has_one_rule(
    person: str, is_refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trainer, a trainer that pushes as it trains, a reward model, a saved folder; and each where it is meant."""
    pushed(monkeypatch)
    monkeypatch.setattr(Trainer, "init_hf_repo", lambda self, *a, **k: None)
    monkeypatch.setattr("palign.models.files.pal.push_model", lambda *_: "address")
    monkeypatch.setattr(HfApi, "create_repo", lambda self, *a, **k: None)
    monkeypatch.setattr(HfApi, "upload_folder", lambda self, **k: "address")
    rows = [row | {"annotator_id": person if i % 2 else "r7"} for i, row in enumerate(NAMED)]
    monkeypatch.setattr(sys.modules[__name__], "NAMED", rows)  # what `reward_trainer` trains on
    model = vector_model(annotators=AnnotatorIndex([person]))
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    ways = [
        lambda **meant: reward_trainer(tmp_path / "a", **meant).push_to_hub(),
        lambda **meant: reward_trainer(tmp_path / "b", push_to_hub=True, **meant),
        lambda **meant: model.push_to_hub("me/pal", allow_personal_ids=bool(meant)),
        lambda **meant: push_folder(folder, "me/pal", **meant),
    ]
    for way in ways:
        if is_refused:
            with pytest.raises(ValueError, match="1 annotator ids look like e-mail addresses"):
                way()
            way(push_personal_ids=True)
        else:
            way()
