"""Options of `FairPolicyTrainer`."""

from dataclasses import dataclass, field
from enum import StrEnum

from transformers import TrainingArguments

from palign.models.policy_draws import ESTIMATORS, DrawSettings
from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.parallel.fsdp_launch import check_fsdp
from palign.parallel.launch_checks import check_launch

__all__ = ["FairPolicyConfig", "Route"]


class Route(StrEnum):
    """How K policies become one adapter. The ensemble of all K is always measured beside them."""

    DISTILL = "distill"  # cross-entropy on samples of the mixture that the game asks for
    REGRESS = "regress"  # log-ratios regressed on a weighted sum of the types', weights corrected by measured regret
    DRO = "dro"  # DPO on the votes, weight going to the type that loses most against its adapter
    RL = "rl"  # GRPO on Σ_k w_k h_k, the weights moved by Hedge on regret measured on the policy's own answers
    MAXMIN = "maxmin"  # the same on the least reward instead of the worst regret: a baseline
    MERGE = "merge"  # weighted sum of the adapters' matrices: no guarantee, a baseline
    SOUP = "soup"  # the same with equal weights, a reward soup: a baseline


@dataclass
class FairPolicyConfig(TrainingArguments):
    """Regrets → weights → one LoRA. `num_train_epochs`, `learning_rate` and the batch size hold for every route that
    is trained; a row of the batch is a ranking (dro) or `group_size` completions of one prompt (the others), so that
    routes cost about the same a step. Everything else is as in `TrainingArguments`.
    """

    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of the one adapter (AdamW)."})
    routes: list[str] = field(
        default_factory=lambda: ["distill"],
        metadata={
            "help": "What is built and compared: any of 'distill', 'regress', 'dro', 'rl', 'merge', and the baselines "
            "'maxmin' and 'soup'."
        },
    )
    n_prompts: int = field(default=512, metadata={"help": "Training prompts that the game is solved on, at most."})
    n_samples: int = field(default=4, metadata={"help": "Completions of each policy to each of these prompts."})
    n_eval_prompts: int = field(default=512, metadata={"help": "Fresh prompts that all is measured on, at most."})
    n_eval_samples: int = field(default=4, metadata={"help": "Completions of each policy to each fresh prompt."})
    max_new_tokens: int = field(default=64, metadata={"help": "Length at which completions are cut."})
    draw_batch_size: int = field(default=64, metadata={"help": "Completions generated at once."})
    estimator: str = field(
        default="prefix",
        metadata={"help": "'prefix': full-vocabulary expectation at every sampled prefix; 'sampled': log-ratios."},
    )
    type_importance: list[float] | None = field(
        default=None, metadata={"help": "How much the regret of each type counts; all alike if unset."}
    )
    max_kl: float | None = field(
        default=None,
        metadata={
            "help": "Largest KL to the reference of the chosen policy, nats; 1.25 times the ensemble's if unset."
        },
    )
    adapter_rank: int | None = field(
        default=None, metadata={"help": "Rank of the one adapter; that of the types if unset."}
    )
    distill_targets: str = field(
        default="soft",
        metadata={
            "help": "distill: 'soft', cross-entropy to the mixture's own next-token distribution after each sampled "
            "prefix, which runs the types' adapters beside; or 'samples', to the sampled tokens alone."
        },
    )
    group_size: int = field(default=4, metadata={"help": "Completions of one prompt in a row of a batch."})
    n_regress_rounds: int = field(
        default=3, metadata={"help": "regress: times the weights are corrected by measured regret, and trained on."}
    )
    weight_step: float = field(
        default=0.5, metadata={"help": "regress: step of that correction, per worst regret of the round."}
    )
    dro_step: float = field(
        default=0.1, metadata={"help": "dro: step of the types' weights at each optimizer step, per nat of loss."}
    )
    hedge_step: float = field(
        default=0.5,
        metadata={
            "help": "rl, maxmin: step of the types' weights at each optimizer step, per worst regret of the reference."
        },
    )
    hedge_ahead: float = field(
        default=1.0,
        metadata={
            "help": "rl, maxmin: how often the last batch counts again in the types' weights; 1 is optimistic Hedge, "
            "more damps weights that go round in a circle, since the policy learns late."
        },
    )
    rl_learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "rl, maxmin: peak learning rate, which starts from trained types; half of the others' if unset."
        },
    )
    rl_reward: str = field(
        default="types",
        metadata={
            "help": "rl, maxmin: 'types', what the types' own policies reward; or 'pal', what a PAL reward model does."
        },
    )
    use_vllm: bool = field(default=False, metadata={"help": "rl, maxmin: TRL generates with vLLM."})
    vllm_mode: str = field(
        default="colocate", metadata={"help": "rl, maxmin: TRL's vllm_mode, 'colocate' or 'server'."}
    )
    merge_type: str = field(default="svd", metadata={"help": "merge: 'svd' (the types' rank) or 'cat' (exact)."})
    judges: list[str] = field(
        default_factory=lambda: ["types", "votes"],
        metadata={
            "help": "Under whom the table is shown: any of 'types' (the types' own policies), 'pal' (the prototypes "
            "of a PAL reward model, which needs one) and 'votes' (held-out votes, which choose the route where there "
            "are enough)."
        },
    )
    sure: float = field(
        default=0.9, metadata={"help": "Votes of annotators of one type at least this likely judge held-out rows."}
    )
    n_bootstrap: int = field(default=500, metadata={"help": "Draws of prompts behind every interval."})
    save_strategy: str = field(default="no", metadata={"help": "Within a route; a finished route is always kept."})

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        check_launch(self)
        super().__post_init__()
        unknown = [name for name in self.routes if name not in set(Route)]
        if unknown or not self.routes:
            raise ValueError(
                f"routes holds {', '.join(unknown) or 'nothing'}; choose from {', '.join(Route)} (the ensemble is "
                "always measured)."
            )
        self.routes = list(dict.fromkeys(self.routes))
        unknown = [name for name in self.judges if name not in JUDGES]
        if unknown or not self.judges:
            raise ValueError(f"judges holds {', '.join(unknown) or 'nothing'}; choose from {', '.join(JUDGES)}.")
        whole = ("n_samples", "n_eval_samples", "max_new_tokens", "draw_batch_size", "n_regress_rounds")
        for name, least in ({"group_size": 2, "n_bootstrap": 2} | dict.fromkeys(whole, 1)).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        for name in ("n_prompts", "n_eval_prompts"):
            if getattr(self, name) < MIN_PROMPTS:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; regret is a mean over prompts: give {MIN_PROMPTS} or more."
                )
        for name in ("weight_step", "dro_step", "hedge_step", "hedge_ahead", "rl_learning_rate", "max_kl"):
            if getattr(self, name) is not None and not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive and finite.")
        for name, allowed in (("estimator", ESTIMATORS), ("merge_type", ("svd", "cat")),
                              ("distill_targets", ("soft", "samples")), ("rl_reward", ("types", "pal")),
                              ("vllm_mode", ("colocate", "server"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose from {', '.join(allowed)}.")
        if not 0 <= self.sure < 1:
            raise ValueError(f"sure is {self.sure}; it must be a probability below 1, .9 say.")

    def draw_settings(self, *, is_eval: bool = False) -> DrawSettings:
        """How the game's prompts, or the fresh ones, are answered."""
        return DrawSettings(
            n_samples=self.n_eval_samples if is_eval else self.n_samples, max_new_tokens=self.max_new_tokens,
            seed=self.seed + is_eval, estimator=self.estimator, batch_size=self.draw_batch_size,
        )  # fmt: skip


MIN_PROMPTS = 8
JUDGES = ("types", "pal", "votes")
