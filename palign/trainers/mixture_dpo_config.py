"""Options of `MixtureDPOTrainer`."""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar

from transformers import TrainingArguments

from palign.data.vote_counts import count_or_auto, written_count
from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.parallel.fsdp_launch import check_fsdp
from palign.parallel.launch_checks import check_launch

__all__ = ["HeadFeatures", "MStep", "MixtureDPOConfig", "TypesFrom", "WarmAnswers"]


class TypesFrom(StrEnum):
    """Where the responsibilities come from."""

    EM = "em"  # started on frozen embeddings, then updated after every round
    CLUSTER = "cluster"  # the start made hard and left alone
    GIVEN = "given"  # handed in as `responsibilities`, left alone


class MStep(StrEnum):
    """How a row reaches the types."""

    SAMPLED = "sampled"  # each row trains one type in an epoch, drawn by its annotator's responsibilities
    WEIGHTED = "weighted"  # each row trains every type that is responsible for it, its loss multiplied by that


class HeadFeatures(StrEnum):
    """What the linear head reads of a completion."""

    AUTO = "auto"  # whichever makes held-out people likeliest
    STATES = "states"
    TOKENS = "tokens"
    BOTH = "both"


class WarmAnswers(StrEnum):
    """What a warm start is taught, each different text once in an epoch."""

    ALL = "all"  # every answer that somebody judged
    BEST = "best"  # those that somebody put first


@dataclass
class MixtureDPOConfig(TrainingArguments):
    """EM outside, DPO inside: `num_train_epochs` passes over the rows are divided evenly over `n_rounds` M-steps, and
    an E-step follows each. Optimizer and learning-rate schedule run through all rounds: every M-step goes on from the
    last one. Everything else is as in `TrainingArguments` and, by name, in TRL's `DPOConfig`.
    """

    AS_TEXT: ClassVar[tuple[str, ...]] = ("n_types",)

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the adapters (AdamW)."})
    plain_prompts: bool = field(
        default=False,
        metadata={
            "help": "Read plain prompts bare, though the tokenizer has a chat template; else each is a user's turn."
        },
    )
    n_types: int | None = field(
        default=None,
        metadata={
            "help": "Latent types K, a number, or 'auto' (unset): chosen by held-out likelihood on frozen embeddings."
        },
    )
    max_types: int = field(default=6, metadata={"help": "Largest K that 'auto' tries."})
    beta: float = field(default=0.1, metadata={"help": "DPO's beta: higher keeps the policies nearer the reference."})
    rpo_alpha: float | None = field(
        default=None,
        metadata={
            "help": "Weight of the negative log-likelihood of the best completion in the loss, a mean over tokens; 1 "
            "keeps types from losing what they were to say. None or 0: none of it."
        },
    )
    sft_epochs: float = field(
        default=0.0,
        metadata={
            "help": "Warm start: so many passes of supervised LoRA over the answers of all people, merged into the "
            "reference before anything else; 0: none. 1 or 2 where the reference would not say such answers."
        },
    )
    sft_answers: str = field(
        default="all",
        metadata={
            "help": "What the warm start is taught: 'all' answers that were judged, or those put first: 'best'."
        },
    )
    sft_learning_rate: float = field(default=5e-4, metadata={"help": "Peak learning rate of the warm start."})
    n_rounds: int = field(default=2, metadata={"help": "M-steps, each followed by an E-step."})
    types_from: str = field(
        default="em", metadata={"help": "'em', 'cluster' (hard clusters, no EM) or 'given' (types known beforehand)."}
    )
    m_step: str = field(
        default="sampled",
        metadata={
            "help": "'sampled': a row trains one type, drawn by responsibility, so that K types cost about one DPO "
            "run; 'weighted': every type that is responsible for it."
        },
    )
    min_responsibility: float = field(
        default=1e-3, metadata={"help": "m_step='weighted': a type less responsible for a row than this skips it."}
    )
    temper_start: float = field(
        default=0.2,
        metadata={
            "help": "The first E-step multiplies log-likelihoods by this; the last by 1. Policies believe the votes "
            "they were trained on, and a tempered E-step leaves people free to move."
        },
    )
    max_length: int = field(default=1024, metadata={"help": "Tokens of prompt and completion together."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch off dropout everywhere, as TRL does."})
    n_restarts: int = field(default=8, metadata={"help": "Starts of the EM on frozen embeddings; the best is kept."})
    head_features: str = field(
        default="auto",
        metadata={
            "help": "What the linear head reads of a completion: 'states' (mean hidden state), 'tokens' (tf-idf), "
            "'both', or 'auto': whichever makes held-out people likeliest."
        },
    )
    head_dim: int = field(default=64, metadata={"help": "Principal components of each of these."})
    head_ridge: float | None = field(
        default=None,
        metadata={
            "help": "Shrinkage of each type's linear head to the pooled one; chosen on people held out if unset."
        },
    )
    n_permutations: int = field(
        default=19, metadata={"help": "Shuffles of annotator ids in the test whether types exist at all; 0 skips it."}
    )
    reference_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder of the reference log-probabilities; `reference_logps` in output_dir if unset."},
    )
    push_personal_ids: bool = field(
        default=False,
        metadata={"help": "Let a model be pushed to a hub whose annotators' ids look like e-mail addresses."},
    )
    e_step_rows: int = field(
        default=8,
        metadata={
            "help": "Rows of each annotator, drawn at random, that E-steps before the last one read, scaled up to "
            "all of theirs; 0 sets no limit, and the last E-step has none."
        },
    )
    e_step_tolerance: float = field(
        default=0.1,
        metadata={
            "help": "An E-step leaves rows unread that would move no responsibility of their annotator by more than "
            "this, at two standard errors; 0 reads all."
        },
    )
    e_step_batch_size: int = field(default=32, metadata={"help": "Completions in a forward pass without gradient."})
    save_strategy: str = field(
        default="no", metadata={"help": "Checkpoints beside those after every round: 'no', 'steps' or 'epoch'."}
    )

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        check_launch(self)
        super().__post_init__()
        self.n_types = count_or_auto(self.n_types)
        self.head_features = HeadFeatures(self.head_features).value
        self.types_from, self.m_step = TypesFrom(self.types_from).value, MStep(self.m_step).value
        for name in ("max_types", "n_rounds", "n_restarts", "head_dim", "e_step_batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        self.sft_answers = WarmAnswers(self.sft_answers).value
        for name in ("rpo_alpha", "sft_epochs"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more, and finite.")
        for name in ("beta", "temper_start", "head_ridge", "sft_learning_rate"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite.")
        if self.temper_start > 1:
            raise ValueError(f"temper_start is {self.temper_start}; above 1 an E-step would count votes twice.")
        if not 0 <= self.min_responsibility < 1 or self.n_permutations < 0 or self.e_step_rows < 0:
            raise ValueError(
                f"min_responsibility is {self.min_responsibility} (0 or more, below 1), n_permutations is "
                f"{self.n_permutations} and e_step_rows is {self.e_step_rows} (both 0 or more)."
            )

        if not 0 <= self.e_step_tolerance <= 0.5:
            raise ValueError(f"e_step_tolerance is {self.e_step_tolerance}; it must lie between 0 and .5.")

    def recorded_options(self) -> dict[str, Any]:
        """What mixture.json keeps: options that are not of every `TrainingArguments`, and the schedule."""
        names = [f.name for f in fields(self) if f.name not in {f.name for f in fields(TrainingArguments)}]
        names += ["learning_rate", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"]
        options = {
            name: getattr(self, name) for name in names if name not in ("reference_cache_dir", "push_personal_ids")
        }
        return options | {"n_types": written_count(self.n_types)}
