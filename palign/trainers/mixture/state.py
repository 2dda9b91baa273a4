"""What EM knows between two rounds, saved with every checkpoint."""

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from palign.functional.mixture import assign_rows, row_weights
from palign.reading import number_in, read_json, read_tensors, require_files
from palign.trainers.mixture_dpo_config import MStep
from palign.writing import whole_file, write_whole

__all__ = ["MixtureState", "round_ends"]

TENSORS_FILE, RECORD_FILE = "mixture_state.safetensors", "mixture_state.json"


@dataclass
class MixtureState:
    """Responsibilities and what was measured on the way.

    Attributes:
        responsibilities: (n_annotators, n_types) float64.
        mixing_weights: (n_types,) float64.
        log_likelihoods: (n_annotators, n_types) float64 nats under the adapters; zeros before the first E-step.
        recorded: (rows, 2, n_types) float64 log-likelihoods (nats) and margins of rows (`row_margins`) seen in the
            forward passes of this round; NaN is not seen.
        round: M-steps done.
        history: one dict for each round.
    """

    responsibilities: Tensor
    mixing_weights: Tensor
    log_likelihoods: Tensor
    recorded: Tensor
    round: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_types(self) -> int:
        """K."""
        return self.responsibilities.shape[1]

    def clone(self) -> "MixtureState":
        """A copy that later rounds leave alone."""
        tensors = (self.responsibilities, self.mixing_weights, self.log_likelihoods, self.recorded)
        return MixtureState(*(tensor.clone() for tensor in tensors), self.round, [dict(row) for row in self.history])

    def row_type_weights(
        self, annotator_index: Tensor, m_step: MStep, *, min_responsibility: float, seed: int
    ) -> Tensor:
        """(rows, n_types) float32 loss weights; a column's mean over all rows is 1, or 0 where its type is dead.

        Args:
            annotator_index: (rows,) whose row it is.
            m_step: sampled: one type for each row, drawn by responsibility; weighted: the responsibilities.
            min_responsibility: weighted: what is below is 0.
            seed: of the draw.
        """
        if m_step is MStep.WEIGHTED:
            kept = self.responsibilities * (self.responsibilities >= min_responsibility)
            return row_weights(kept, annotator_index).float()
        generator = torch.Generator().manual_seed(seed)
        types = assign_rows(self.responsibilities, annotator_index, generator)
        counts = torch.bincount(types, minlength=self.n_types).clamp_min(1)
        weights = torch.zeros(len(types), self.n_types)
        weights[torch.arange(len(types)), types] = (len(types) / counts[types]).float()
        return weights

    def save(self, folder: str | Path) -> None:
        """Two small files in a checkpoint."""
        folder = Path(folder)
        tensors = {
            name: getattr(self, name).contiguous()
            for name in ("responsibilities", "mixing_weights", "log_likelihoods", "recorded")
        }
        with whole_file(folder / TENSORS_FILE) as beside:
            save_file(tensors, beside)
        write_whole(folder / RECORD_FILE, json.dumps({"round": self.round, "history": self.history}))

    def save_recorded(self, folder: Path, rank: int) -> None:
        """What a further process's passes recorded, beside the state, which the main one writes."""
        save_file({"recorded": self.recorded.contiguous()}, folder / f"recorded_{rank}.safetensors")

    def loaded(self, folder: str | Path, rank: int) -> "MixtureState":
        """The state in a checkpoint, of people, rows and types as many as these, with what this process recorded.

        Raises:
            ValueError: not a checkpoint of this trainer, or of other numbers of them.
        """
        state, path = self.load(folder), Path(folder) / f"recorded_{rank}.safetensors"
        if path.is_file():
            state.recorded = read_tensors(path, may_be_nan=("recorded",)).get("recorded", state.recorded)
        held, needed = ((*s.responsibilities.shape, len(s.recorded)) for s in (state, self))
        if held != needed:
            raise ValueError(
                f"The checkpoint {folder} is of {held[0]} annotators, {held[1]} types and {held[2]} rows, these "
                f"are {needed[0]}, {needed[1]} and {needed[2]}. Resume with the rows and the n_types of that run."
            )
        return state

    @classmethod
    def load(cls, folder: str | Path) -> "MixtureState":
        """ValueError when the folder is not a checkpoint of this trainer."""
        folder = Path(folder)
        require_files(folder, (TENSORS_FILE, RECORD_FILE), "is not a checkpoint of MixtureDPOTrainer")
        record = read_json(folder / RECORD_FILE, dict, allows_nan=True)
        tensors = read_tensors(folder / TENSORS_FILE, may_be_nan=("recorded",))
        number_in(record, "round", folder / RECORD_FILE, least=0, whole=True)
        names = {item.name for item in fields(cls)} - {"round", "history"}
        if set(tensors) != names or not isinstance(record.get("history"), list):
            raise ValueError(f"{str(folder)!r}: {TENSORS_FILE} or {RECORD_FILE} is not what was saved with them.")
        if tensors["recorded"].ndim == 2:  # a checkpoint from before margins were recorded
            tensors["recorded"] = torch.stack(
                [tensors["recorded"], torch.full_like(tensors["recorded"], torch.nan)], 1
            )
        return cls(**tensors, round=record["round"], history=record["history"])


def round_ends(n_steps: int, n_rounds: int) -> list[int]:
    """The optimizer steps after which a round ends, rising, the last being `n_steps`; never two at one step.

    Five steps in two rounds end at 2 and 5 (half a step is rounded down, so that the last round is the longer one).
    """
    ends = [n_steps * number // n_rounds for number in range(1, n_rounds + 1)]
    return sorted({end for end in ends if end > 0})
