"""Options of the first stage of a PAL reward, in which the backbone is frozen and the items may be ready vectors.

`PALRewardConfig` has them beside those of `transformers.TrainingArguments`, which takes seconds to import. Where no
backbone is trained hardly one of those means anything: `VectorRewardConfig` has the few that do.
"""

import os
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from accelerate import PartialState

from palign.trainers.reward.head_fit import HeadFitOptions

__all__ = ["HeadOptions", "VectorRewardConfig"]


@dataclass
class HeadOptions:
    """How head and people are fitted over states of the frozen backbone."""

    head_epochs: int = field(default=30, metadata={"help": "Passes over the rows with the backbone frozen."})
    head_min_steps: int = field(
        default=0,
        metadata={"help": "Optimizer steps of the head at least: few rows get smaller batches, then more epochs."},
    )
    head_learning_rate: float = field(default=5e-3, metadata={"help": "Peak learning rate of f and g (AdamW)."})
    head_batch_size: int = field(default=512, metadata={"help": "Rows in a step with the backbone frozen."})
    head_weight_decay: float = field(default=0.1, metadata={"help": "Decoupled weight decay of f and g."})
    annotator_learning_rate: float = field(
        default=5e-2, metadata={"help": "Peak learning rate of the people's weights."}
    )
    annotator_prior: float = field(
        default=1.0,
        metadata={
            "help": "Shrinkage to the population: −log prior of a person is this × ‖ω_i − mean ω‖². More brings "
            "everybody closer to one pooled reward; 0 leaves them alone."
        },
    )
    smooth_annotators: bool = field(
        default=True,
        metadata={
            "help": "End by replacing everybody's weights by their posterior mean with the population as the prior."
        },
    )
    n_restarts: int = field(
        default=1, metadata={"help": "Fits of the head from different starts; the best training objective is kept."}
    )
    loss_type: str = field(
        default="logistic", metadata={"help": "'logistic' (Bradley–Terry, Plackett–Luce) or 'hinge'."}
    )
    embedding_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that keeps embeddings between runs; in memory if unset."}
    )
    embedding_batch_size: int = field(default=32, metadata={"help": "Texts in a forward pass of the frozen backbone."})

    def check_head_options(self) -> None:
        """ValueError for a value under which nothing can be fitted."""
        if self.loss_type not in ("logistic", "hinge"):
            raise ValueError(f"loss_type is {self.loss_type!r}; it must be 'logistic' or 'hinge'.")
        for name in ("head_batch_size", "n_restarts", "embedding_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in (
            "head_epochs", "head_min_steps", "head_learning_rate", "head_weight_decay", "annotator_learning_rate",
            "annotator_prior",
        ):  # fmt: skip
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, and finite.")

    def head_fit_options(self) -> HeadFitOptions:
        """The same, as `fit_head` takes them."""
        return HeadFitOptions(
            self.head_epochs, self.head_learning_rate, self.head_batch_size, self.head_weight_decay,
            self.annotator_learning_rate, self.annotator_prior, self.loss_type, self.head_min_steps,
        )  # fmt: skip


@dataclass
class VectorRewardConfig(HeadOptions):
    """Options of a fit on vectors by one process, under the names that `TrainingArguments` has for the same.

    Raises:
        ValueError: as `PALRewardConfig`, or for a value that asks for a trainer of transformers.
    """

    output_dir: str = "outputs/pal_reward"
    seed: int = 42
    use_cpu: bool = False
    disable_tqdm: bool | None = None
    run_name: str | None = None
    report_to: str = "none"

    train_backbone: ClassVar[bool] = False
    should_save: ClassVar[bool] = True  # on the only process
    resume_from_checkpoint: ClassVar[None] = None  # there are none: checkpoints are of the second stage

    def __post_init__(self) -> None:
        self.check_head_options()
        if self.report_to != "none":
            raise ValueError(f"report_to is {self.report_to!r}; trackers hang on a trainer of transformers.")
        self.output_dir = os.path.expanduser(self.output_dir)
        self.disable_tqdm = bool(self.disable_tqdm)

    @property
    def device(self) -> torch.device:
        """Where the fit runs."""
        state = PartialState(cpu=self.use_cpu)
        return torch.device("cpu") if self.use_cpu else state.device
