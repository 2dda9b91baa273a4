"""A checkpoint is complete or counts as nothing; the last complete one is found, older ones go only after it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from palign.trainers.checkpointing.complete import (
    MARKER,
    CompleteCheckpoints,
    incomplete_because,
    last_complete_checkpoint,
    mark_complete,
    resume_point,
)
from palign.writing import SavingError


def checkpoint(output: Path, step: int) -> Path:
    folder = output / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "weights").write_bytes(b"12345")
    (folder / "inner" / "more").write_bytes(b"678")
    mark_complete(folder)
    return folder


class Line(torch.nn.Module):
    """y = ax."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.a * x - labels).square().mean()}


class LineTrainer(CompleteCheckpoints, Trainer):
    pass


def line_trainer(folder: Path, **changes: Any) -> LineTrainer:
    settings = {
        "save_strategy": "steps", "save_steps": 1, "max_steps": 6, "use_cpu": True, "report_to": "none",
        "disable_tqdm": True, "logging_strategy": "no", "per_device_train_batch_size": 2,
    }  # fmt: skip
    rows = [{"x": torch.tensor([float(i)]), "labels": torch.tensor([2.0 * i])} for i in range(8)]
    args = TrainingArguments(output_dir=str(folder), **(settings | changes))
    return LineTrainer(model=Line(), args=args, train_dataset=rows)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (lambda path: (path / "weights").write_bytes(b"123"), "weights has 3 bytes, and 5 were written"),
        (lambda path: (path / "inner" / "more").unlink(), "inner/more is missing"),
        (lambda path: (path / MARKER).unlink(), "it has no complete.json"),
        (lambda path: (path / "weights").write_bytes(b"54321"), "weights holds other bytes than were written"),
        (lambda path: (path / MARKER).write_text("{"), "its complete.json is damaged"),
        (lambda path: (path / MARKER).write_text('{"files": []}'), "its complete.json is damaged"),
        (lambda path: (path / MARKER).write_text('{"files": {}}'), "its complete.json is damaged"),
        (lambda path: (path / MARKER).write_text('{"files": {"../x": 1}}'), "its complete.json is damaged"),
        (lambda path: (path / MARKER).write_text("[" * 100_000), "its complete.json is damaged"),
        (shutil.rmtree, "there is no such folder"),
    ],
)
def test_half_a_checkpoint_is_none(tmp_path: Path, harm: Any, words: str, caplog: pytest.LogCaptureFixture) -> None:
    first, second = checkpoint(tmp_path, 9), checkpoint(tmp_path, 10)
    assert last_complete_checkpoint(tmp_path) == second and incomplete_because(second) is None
    harm(second)
    assert incomplete_because(second) == words or words in incomplete_because(second)
    assert resume_point("True", tmp_path) == str(first)
    assert not second.exists() or f"{second} is not read" in caplog.text
    with pytest.raises(ValueError, match=r"not a complete checkpoint: .* are: .*checkpoint-9\. Name one"):
        resume_point(str(second), tmp_path)


def test_a_run_begun_anew_goes_on_from_its_own(tmp_path: Path) -> None:
    """The folder of a longer run has a higher number; what was written last counts."""
    checkpoint(tmp_path, 50)
    own = checkpoint(tmp_path, 5)
    assert last_complete_checkpoint(tmp_path) == own


def marked(folder: Path, **changes: Any) -> None:
    held = json.loads((folder / MARKER).read_text())
    (folder / MARKER).write_text(json.dumps({name: value for name, value in (held | changes).items() if value != "-"}))


def test_a_clock_that_is_ahead_decides_nothing(tmp_path: Path) -> None:
    """Of two nodes one is an hour ahead: what was written last is told by the counter."""
    first, second = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    marked(first, written_at=9e9)
    assert last_complete_checkpoint(tmp_path) == second
    trainer = line_trainer(tmp_path / "run", save_total_limit=1, max_steps=2)
    trainer.train()
    marked(tmp_path / "run" / "checkpoint-2", written_at=9e9)
    trainer = line_trainer(tmp_path / "run", save_total_limit=1, max_steps=4)
    trainer.train(resume_from_checkpoint=True)
    assert names(tmp_path / "run") == {"checkpoint-4"}


def test_marks_of_an_earlier_version_are_older_than_those_with_a_counter(tmp_path: Path) -> None:
    old, older = checkpoint(tmp_path, 1), checkpoint(tmp_path, 2)
    marked(old, written="-", sha256="-", written_at=20.0)
    marked(older, written="-", sha256="-", written_at=10.0)
    assert last_complete_checkpoint(tmp_path) == old
    marked(older, written_at="yesterday")
    assert last_complete_checkpoint(tmp_path) == old
    assert last_complete_checkpoint(tmp_path) != checkpoint(tmp_path, 3) == last_complete_checkpoint(tmp_path)


def test_true_is_no_error_where_there_is_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resume_point(True, tmp_path / "nowhere") is None
    assert "begins at the beginning" in caplog.text
    assert resume_point(None, tmp_path) is None and resume_point("false", tmp_path) is None


def test_transformers_still_saves_by_the_names_that_are_leant_on(tmp_path: Path) -> None:
    """`_save_checkpoint(model, trial)`, which rotates by `args.save_total_limit`, and `_get_output_dir`."""
    trainer = line_trainer(tmp_path, save_total_limit=2)
    trainer.train(resume_from_checkpoint=True)
    assert names(tmp_path) == {"checkpoint-5", "checkpoint-6"}, "transformers has moved what CompleteCheckpoints wraps"
    assert trainer.args.save_total_limit == 2
    listed = json.loads((tmp_path / "checkpoint-6" / MARKER).read_text())["files"]
    assert set(listed) == names(tmp_path / "checkpoint-6") - {MARKER} and "optimizer.pt" in listed


def test_older_ones_go_only_when_the_new_one_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = line_trainer(tmp_path, save_total_limit=1)

    def killed(self: Trainer, folder: str) -> None:
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(LineTrainer, "_save_rng_state", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert names(tmp_path) == {"checkpoint-3", "checkpoint-4"}
    assert resume_point(True, tmp_path) == str(tmp_path / "checkpoint-3")
    monkeypatch.undo()
    resumed, whole = line_trainer(tmp_path, save_total_limit=1), line_trainer(tmp_path / "whole")
    resumed.train(resume_from_checkpoint=True)
    whole.train()
    assert names(tmp_path) == {"checkpoint-6", "whole"}
    assert torch.equal(resumed.model.a, whole.model.a)


def test_what_others_left_in_the_folder_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without `complete.json`: of plain transformers or an earlier version. Half of one of ours goes."""
    for name in ("checkpoint-70", "checkpoint-80"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"good")
    half = tmp_path / "checkpoint-90"
    half.mkdir()
    (half / "begun").touch()
    checkpoint(tmp_path, 95)  # complete, and older than those to come
    line_trainer(tmp_path, save_total_limit=2, max_steps=3).train()
    assert names(tmp_path) == {"checkpoint-2", "checkpoint-3", "checkpoint-70", "checkpoint-80"}
    assert (tmp_path / "checkpoint-70" / "model.safetensors").read_bytes() == b"good"
    said = [record.getMessage() for record in caplog.records if "save_total_limit" in record.getMessage()]
    assert len(said) == 1 and "checkpoint-70, checkpoint-80" in said[0] and "checkpoint-90" not in said[0]


def test_the_best_checkpoint_stays(tmp_path: Path) -> None:
    trainer = line_trainer(tmp_path, save_total_limit=1)
    for step in (1, 2, 3):
        checkpoint(tmp_path, step)
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-1")
    trainer._remove_older(tmp_path)
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-3"}


def test_a_full_disk_leaves_the_checkpoint_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = line_trainer(tmp_path)

    def full(self: Trainer, folder: str) -> None:
        if self.state.global_step == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(LineTrainer, "_save_rng_state", full)
    with pytest.raises(
        SavingError, match="checkpoint-3 could not be written .* disk is full .* Intact is .*checkpoint-2'"
    ):
        trainer.train()
    assert names(tmp_path) == {"checkpoint-1", "checkpoint-2"}


def test_a_run_that_ended_within_an_epoch_takes_no_further_step(tmp_path: Path) -> None:
    """Six steps, an epoch having four: loaded as often as one likes; asked for two more, it takes two."""
    whole = line_trainer(tmp_path, lr_scheduler_type="constant")
    whole.train()
    for n_steps in (6, 6, 5):
        again = line_trainer(tmp_path, lr_scheduler_type="constant", max_steps=n_steps)
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 6 and torch.equal(again.model.a, whole.model.a)
        assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-6"
    longer = line_trainer(tmp_path, lr_scheduler_type="constant", max_steps=8)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == 8 and not torch.equal(longer.model.a, whole.model.a)
    uninterrupted = line_trainer(tmp_path / "other", lr_scheduler_type="constant", max_steps=8)
    uninterrupted.train()
    assert torch.equal(longer.model.a, uninterrupted.model.a)


def test_a_run_with_other_options_does_not_go_on(tmp_path: Path) -> None:
    line_trainer(tmp_path, max_steps=2).train()
    quieter = line_trainer(
        tmp_path, max_steps=2, logging_strategy="steps", save_total_limit=1, dataloader_num_workers=1
    )
    quieter.train(resume_from_checkpoint=True)
    other = line_trainer(tmp_path, max_steps=2, per_device_train_batch_size=4)
    with pytest.raises(ValueError, match=r"of another run: per_device_train_batch_size 2 \(now 4\)\. Go on"):
        other.train(resume_from_checkpoint=True)
    other.train()
    assert last_complete_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
