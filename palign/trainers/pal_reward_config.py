"""Options of `PALRewardTrainer`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.parallel.fsdp_launch import check_fsdp
from palign.parallel.launch_checks import check_launch

__all__ = ["PALRewardConfig"]


@dataclass
class PALRewardConfig(TrainingArguments):
    """Training happens in two stages. The head and the people's weights are fitted over states of the frozen backbone,
    computed once (the `head_…` options). If the backbone is trained as well (LoRA, or `train_backbone`), head, people
    and backbone then go on together under the ordinary options of `TrainingArguments`.
    """

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
    train_backbone: bool = field(default=False, metadata={"help": "Train every weight of the backbone, without LoRA."})
    embedding_cache_dir: str | None = field(
        default=None, metadata={"help": "Folder that keeps embeddings between runs; in memory if unset."}
    )
    push_personal_ids: bool = field(
        default=False,
        metadata={"help": "Let a model be pushed to a hub whose annotators' ids look like e-mail addresses."},
    )
    embedding_batch_size: int = field(default=32, metadata={"help": "Texts in a forward pass of the frozen backbone."})

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        check_launch(self)
        super().__post_init__()
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
