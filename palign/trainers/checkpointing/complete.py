"""Checkpoints that are complete or count as nothing, for every `transformers.Trainer`.

transformers writes `checkpoint-N/` file by file and goes on from the highest number, half-written or not. Here a
checkpoint is complete when `complete.json`, written last, lists every file in it with its size and hash; only then are
older ones removed, and only a complete one is read. Which one is the last is told by a counter in that file, since the
clocks of several machines differ. It goes on in the run that wrote it and in no other (`same_run`), and where that run
had ended, nothing is trained. A run that is asked to end (SIGTERM) writes one more (`terminated`).
"""

import json
import logging
import os
import re
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import save_fsdp_optimizer
from torch import nn
from transformers.trainer import SCHEDULER_NAME

from palign.contents import file_hash
from palign.models.files.base_files import plain_state
from palign.parallel.divided_training import BesideDivided
from palign.parallel.fsdp import leave_fsdp
from palign.parallel.sharded import release_in_backward
from palign.parallel.shared_work import computed_once
from palign.reading import read_json
from palign.trainers.checkpointing.own_card import OwnCard
from palign.trainers.checkpointing.parts import load_optimizer_parts, load_weight_parts, save_parts
from palign.trainers.checkpointing.same_run import RUN, adapter_options, refuse_another_run, run_record
from palign.trainers.checkpointing.terminated import SaveAndEnd
from palign.writing import SavingError, saving, set_usual_modes, write_whole

__all__ = [
    "MARKER",
    "CompleteCheckpoints",
    "incomplete_because",
    "last_complete_checkpoint",
    "mark_complete",
    "resume_point",
]

logger = logging.getLogger(__name__)
MARKER = "complete.json"
BEGUN = "begun"  # an empty file, first in a checkpoint and gone when it is complete: half of one of ours has it
PARTS = "parts"  # of a checkpoint: weights and optimizer state of what is trained in parts under FSDP2
FOLDER = re.compile(r"checkpoint-(\d+)")


def mark_complete(folder: str | Path) -> None:
    """Say that a checkpoint is complete: all its files by name, size (bytes) and hash, and which one it is of those
    beside it. The time is for people.
    """
    folder = Path(folder)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (MARKER, BEGUN)]
    files = {path.relative_to(folder).as_posix(): path for path in paths}
    record = {
        "written": 1 + max((_written(path)[0] for path in _folders(folder.parent) if path != folder), default=0),
        "written_at": time.time(),
        "files": {name: path.stat().st_size for name, path in files.items()},
        "sha256": {name: file_hash(path) for name, path in files.items()},
    }
    write_whole(folder / MARKER, json.dumps(record, indent=1) + "\n")
    (folder / BEGUN).unlink(missing_ok=True)


def incomplete_because(folder: str | Path, *, reads_all: bool = True) -> str | None:
    """What a checkpoint lacks, as a sentence; None when it is complete.

    Args:
        reads_all: compare the hashes, too, and not the sizes alone; marks of earlier versions have none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / MARKER).is_file():
        return f"it has no {MARKER}, which is written last"
    try:
        record = _mark(folder)
    except ValueError:
        return f"its {MARKER} is damaged"
    for name, size in record["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size} bytes, and {size} were written"
    if reads_all:
        for name, digest in record.get("sha256", {}).items():
            if file_hash(folder / name) != digest:
                return f"{name} holds other bytes than were written"
    return None


def _mark(folder: Path) -> dict[str, Any]:
    """complete.json of a checkpoint; ValueError where it is not what `mark_complete` wrote."""
    record = read_json(folder / MARKER, dict)
    files, hashes = record.get("files"), record.get("sha256", {})
    is_right = isinstance(files, dict) and files and isinstance(hashes, dict) and set(hashes) <= set(files)
    if not is_right or any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
        raise ValueError(f"{folder / MARKER} is no list of files.")
    return record


def last_complete_checkpoint(output_dir: str | Path) -> Path | None:
    """The complete checkpoint that was written last; None where there is none.

    By the counter in its mark, not by its number: a run begun anew in the folder of a longer one has lower numbers.
    """
    newest_first = sorted(_folders(output_dir), key=_written, reverse=True)
    return next((path for path in newest_first if incomplete_because(path) is None), None)


def resume_point(asked: str | bool | None, output_dir: str | Path) -> str | None:
    """The checkpoint that `--resume_from_checkpoint` means.

    Args:
        asked: true (also as a word): the last complete one, None with a warning where there is none, so that one
            command begins and goes on; false or None: none; else the folder of a checkpoint.
        output_dir: of the run.

    Raises:
        ValueError: a folder was named and is no complete checkpoint.
    """
    if asked is None or str(asked).lower() == "false":
        return None
    if str(asked).lower() != "true":
        fault = incomplete_because(asked)
        if fault is not None:
            others = [str(path) for path in _folders(output_dir) if incomplete_because(path) is None]
            raise ValueError(
                f"resume_from_checkpoint is {str(asked)!r}, which is not a complete checkpoint: {fault}. Complete "
                f"in {str(output_dir)!r} are: {', '.join(others) or 'none'}. Name one, or give true for the last."
            )
        return str(asked)
    last = last_complete_checkpoint(output_dir)
    for path in _folders(output_dir):
        fault = None if path == last else incomplete_because(path)
        if fault is not None:
            logger.warning("%s is not read: %s. The run was interrupted while writing it.", path, fault)
    if last is None:
        logger.warning("%s holds no complete checkpoint; training begins at the beginning.", output_dir)
    return None if last is None else str(last)


def _folders(output_dir: str | Path) -> list[Path]:
    """All `checkpoint-N`, by number."""
    folders = [path for path in Path(output_dir).glob("checkpoint-*") if path.is_dir() and FOLDER.fullmatch(path.name)]
    return sorted(folders, key=lambda path: int(FOLDER.fullmatch(path.name)[1]))


def _written(folder: Path) -> tuple[int, float, int]:
    """What a later checkpoint has more of: the counter; the clock of an earlier version, which had no counter; the
    number. Nothing where the mark is damaged.
    """
    match = FOLDER.fullmatch(folder.name)
    number = int(match[1]) if match else 0
    try:
        record = _mark(folder)
    except ValueError:
        return 0, 0.0, number
    count, clock = record.get("written"), record.get("written_at")
    is_counted = isinstance(count, int) and not isinstance(count, bool) and count > 0
    is_timed = isinstance(clock, (int, float)) and not isinstance(clock, bool)
    return (count, 0.0, number) if is_counted else (0, float(clock) if is_timed else 0.0, number)


class CompleteCheckpoints(BesideDivided, OwnCard):
    """Put before `Trainer` among the bases: `class MyTrainer(CompleteCheckpoints, Trainer)`.

    `train(resume_from_checkpoint=True)` goes on from the last complete checkpoint in `output_dir`, and begins at the
    beginning where there is none. The rows that it trains on are its `train_rows`, if it has any.
    """

    _foreign_said = False
    _same_run_as: str | None = None  # the checkpoint that was compared
    writes_own_weights = False  # what was trained is in further files, which `read_weights` reads

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = kwargs.get("args")
        if getattr(options, "enable_jit_checkpoint", False):  # whose training returns as if it were done
            options.enable_jit_checkpoint = False
        self.termination = SaveAndEnd()
        super().__init__(*args, **kwargs)
        self.add_callback(self.termination)  # the last one: what others asked for is done
        if self.args.push_to_hub:
            self.refuse_personal_ids()

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the trainer's; a half-written checkpoint is never read.

        A run may be made longer as it goes on (`max_steps`, `num_train_epochs`), as in transformers. One that is
        asked for no more steps than it has done is loaded, and takes none.

        Raises:
            TerminatedError: SIGTERM came; a checkpoint was written.
            ValueError: a folder was named that is no complete checkpoint; or the checkpoint is of other rows, other
                options that decide the result, or another number of processes.
            SavingError: a checkpoint could not be written; those before it are intact.
        """
        point = self.agreed_resume_point(resume_from_checkpoint)
        if point is not None and self.is_fsdp_enabled and self.writes_own_weights:
            self.read_weights(Path(point))  # before they are divided
        with self.termination.listening():
            result = super().train(point, *args, **kwargs)
        if self.termination.has_ended:
            written = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.termination.leave(self.args.output_dir, written if written.is_dir() else None)
        return result

    def agreed_resume_point(self, asked: str | bool | None) -> str | None:
        """`resume_point` of this run, as the main process finds it."""
        return computed_once(lambda: self._own_resume_point(asked))

    def _own_resume_point(self, asked: str | bool | None) -> str | None:
        point = resume_point(asked, self.args.output_dir)
        if point is not None and point != self._same_run_as:
            refuse_another_run(point, self._run_record)
            self._same_run_as = point
        return point

    @cached_property
    def _run_record(self) -> dict[str, Any]:
        further = adapter_options(self.accelerator.unwrap_model(self.model)) | self.deciding()
        # whose checkpoints others cannot read, nor it theirs
        further |= {"FSDP2": self.is_fsdp_enabled or self.trains_parts}
        return run_record(self.args, getattr(self, "train_rows", None), **further)

    def deciding(self) -> dict[str, Any]:
        """What decides a run beside rows and options, by name."""
        return {}

    def is_finished(self) -> bool:
        """Whether there is nothing left to train; asked as an epoch begins."""
        return self.state.global_step >= self.state.max_steps

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As of transformers, which takes one more step where a run that ended within an epoch goes on."""
        if self.is_finished():
            self.control.should_training_stop = True
        else:
            release_in_backward(self.model)  # the engine is there by now
            super()._run_epoch(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As of transformers, then the mark, then the removal of older ones: in this order a kill harms nothing."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with saving(folder, folder.name, self._what_is_intact(folder)):
                if self.args.should_save:
                    shutil.rmtree(folder, ignore_errors=True)  # of a run before, or half of one
                    folder.mkdir(parents=True, exist_ok=True)
                    (folder / BEGUN).touch()
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                self.save_beside(folder)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    write_whole(folder / RUN, json.dumps(self._run_record, indent=1) + "\n")
                    set_usual_modes(folder.rglob("*"))
                    mark_complete(folder)
        except SavingError:
            shutil.rmtree(folder, ignore_errors=True)  # half a checkpoint helps nobody, and may fill the disk
            raise
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            self._remove_older(folder.parent)
        self.accelerator.wait_for_everyone()

    def read_weights(self, folder: Path) -> None:
        """What was trained, and what belongs to it, from a checkpoint into the model; all processes call it."""
        raise NotImplementedError

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.trains_parts:
            load_weight_parts(Path(resume_from_checkpoint) / PARTS, self.model)
        elif not self.writes_own_weights:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        elif not self.is_fsdp_enabled:  # else they were read before it was divided
            self.read_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        if self.trains_parts:
            load_weight_parts(Path(self.state.best_model_checkpoint) / PARTS, self.model)
            return
        if not self.writes_own_weights or self.is_deepspeed_enabled:
            super()._load_best_model()
            return
        leave_fsdp(self.model)  # training is over
        self.read_weights(Path(self.state.best_model_checkpoint))

    def leave_fsdp2(self) -> None:
        """Call when training is over, on all processes: the model is whole on each, and may be trained again."""
        if self.is_fsdp_enabled:
            leave_fsdp(self.model)
            self.optimizer = self.lr_scheduler = None  # of the weights as they were divided

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """transformers'; under FSDP it would write the whole model beside them, base included."""
        if self.trains_parts:
            save_parts(Path(output_dir) / PARTS, self.model, self.optimizer.optimizer, self.lr_scheduler)
            return
        if not (self.writes_own_weights and self.is_fsdp_enabled):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        save_fsdp_optimizer(
            self.accelerator.state.fsdp_plugin, self.accelerator, self.optimizer, self.model, output_dir
        )
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.trains_parts and checkpoint is not None:
            load_optimizer_parts(Path(checkpoint) / PARTS, self.model, self.optimizer.optimizer, self.lr_scheduler)
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """transformers'; a checkpoint of what is trained in parts has parts alone."""
        if not (self.trains_parts and _internal_call):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.trains_parts:  # all processes come here; the main one has the file
            state_dict = plain_state(self.model)
        super()._save(output_dir, state_dict)

    def save_beside(self, folder: Path) -> None:
        """Further files of a checkpoint, written by every process before it is marked complete."""

    def _remove_older(self, output_dir: Path) -> None:
        if not self.args.save_total_limit:
            return
        folders = _folders(output_dir)
        sized = (path for path in folders if incomplete_because(path, reads_all=False) is None)
        complete = sorted(sized, key=_written)
        others = [path for path in folders if path not in complete]
        halves = [path for path in others if (path / BEGUN).is_file()]
        foreign = [path.name for path in others if path not in halves]
        if foreign and not self._foreign_said:
            logger.warning(
                "%s: %s begun by no trainer of palign, or of an earlier version, without %s; left as they are and not "
                "counted in save_total_limit.", output_dir, ", ".join(foreign), MARKER,
            )  # fmt: skip
            self._foreign_said = True
        best = self.state.best_model_checkpoint
        kept = set(complete[-1:]) | ({Path(best)} & set(complete) if best else set())
        n_beyond = len(complete) - max(self.args.save_total_limit, len(kept))
        older = [path for path in complete if path not in kept][: max(n_beyond, 0)]
        for path in [*halves, *older]:
            shutil.rmtree(path, ignore_errors=True)

    def _what_is_intact(self, folder: Path) -> str:
        others = [path for path in _folders(folder.parent) if path != folder]
        complete = [path for path in others if incomplete_because(path, reads_all=False) is None]
        if not complete:
            return "There was no checkpoint before it."
        last = max(complete, key=_written)
        return f"Intact is {os.fspath(last)!r}, from which the run can go on."
