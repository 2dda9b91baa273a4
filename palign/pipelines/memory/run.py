"""What a run is asked, as far as its memory depends on it."""

from dataclasses import dataclass, field
from typing import Any

from palign.pipelines.memory.layers import Precision, Trained
from palign.pipelines.memory.shape import LINEARS, ModelShape

__all__ = ["LAUNCHERS", "RECIPES", "PlannedRun"]

RECIPES = ("em_dpo", "pal_reward", "ppo_pal", "grpo_pal", "fair_policy", "evaluate_fairness")
LAUNCHERS = ("single", "multi_gpu", "zero2", "zero3", "fsdp2")
ALWAYS_LORA = ("em_dpo", "fair_policy", "evaluate_fairness")
WHOLE_NUMBERS = (
    "num_processes", "per_device_train_batch_size", "gradient_accumulation_steps", "eval_batch_size", "prompt_length",
    "max_length", "max_new_tokens", "n_items", "n_types", "lora_r", "critic_lora_r", "group_size",
    "steps_per_generation",
)  # fmt: skip


def _said(text: str, default: Any) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class PlannedRun:
    """Options by the names that recipes and launchers have for them.

    Raises:
        ValueError: a number out of range, or a recipe, launcher or type that is none of those known.
    """

    recipe: str = _said(f"One of {', '.join(RECIPES)}.", "em_dpo")
    launcher: str = _said(f"One of {', '.join(LAUNCHERS)}: the file of accelerate_configs/.", "single")
    num_processes: int = _said("Processes of the launch, a card each.", 1)
    per_device_train_batch_size: int = _said("Rows of a micro-batch.", 8)
    gradient_accumulation_steps: int = _said("Micro-batches of a step.", 1)
    eval_batch_size: int = _said(
        "Texts in a pass without gradient: --e_step_batch_size, --embedding_batch_size, --draw_batch_size, or "
        "--batch_size of an evaluation.", 32,
    )  # fmt: skip
    prompt_length: int = _said("Tokens of the longest prompt.", 256)
    max_length: int = _said("Tokens of prompt and completion together; of a policy the sum of the two others.", 1024)
    max_new_tokens: int = _said("Tokens of a completion that is drawn (--max_completion_length).", 256)
    n_items: int = _said("Completions of a judgement: 2 in a pair.", 2)
    n_types: int = _said("Adapters of a mixture.", 4)
    m_step: str = _said("em_dpo: 'sampled' or 'weighted'.", "sampled")
    use_peft: bool = _said("Whether a policy's, or a reward model's, LoRA is trained; else all of it.", True)
    lora_r: int = _said("Rank of LoRA.", 16)
    lora_target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Linear maps with LoRA; 'all-linear': all of a layer."},
    )
    lora_dropout: float = _said("Of LoRA's inputs; recipes that switch it off have 0.", 0.0)
    critic: str = _said("ppo_pal: 'lora', 'head', 'full' or 'layers:N'.", "lora")
    critic_lora_r: int = _said("ppo_pal: rank of the critic's adapter.", 4)
    steps_per_generation: int = _said("ppo_pal, grpo_pal: micro-batches of a rollout.", 4)
    beta: float = _said("grpo_pal: above 0 a policy trained whole has a reference beside it.", 0.04)
    distill_targets: str = _said("fair_policy: 'soft' or 'samples'.", "soft")
    group_size: int = _said("fair_policy: completions of a row.", 4)
    reward_model: bool = _said(
        "Whether a policy's reward model has a backbone of the policy's shape, in float32.", True
    )
    dtype: str = _said("float32 or bfloat16, as weights are held.", "float32")
    bf16: bool = _said("Whether training computes in bfloat16 (autocast).", False)
    gradient_checkpointing: bool = _said("Whether layers are computed again in the backward pass.", False)
    device: str = _said("cuda or cpu: what some buffers are sized by.", "cuda")
    reduce_bucket_size: int = _said("Numbers of DeepSpeed's bucket of gradients.", 500_000_000)
    max_live_parameters: int = _said("zero3: parameters that may lie whole at once.", 1_000_000_000)

    def __post_init__(self) -> None:
        for name, allowed in (("recipe", RECIPES), ("launcher", LAUNCHERS), ("dtype", ("float32", "bfloat16")),
                              ("device", ("cuda", "cpu")), ("m_step", ("sampled", "weighted")),
                              ("distill_targets", ("soft", "samples"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"--{name} is {getattr(self, name)!r}; choose from {', '.join(allowed)}.")
        for name in WHOLE_NUMBERS:
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} is {getattr(self, name)}; it must be at least 1.")
        if self.launcher == "single" and self.num_processes > 1:
            raise ValueError(
                f"--launcher single runs one process, and --num_processes is {self.num_processes}; give another."
            )
        if self.recipe in ("ppo_pal", "grpo_pal"):
            self.max_length = self.prompt_length + self.max_new_tokens
        if self.prompt_length >= self.max_length:
            raise ValueError(
                f"--prompt_length is {self.prompt_length} and --max_length {self.max_length}; a prompt must leave "
                "room for its completion."
            )
        unknown = [name for name in self.lora_target_modules if name not in ("all-linear", *LINEARS)]
        if unknown:
            raise ValueError(
                f"--lora_target_modules holds {unknown[0]!r}; choose from all-linear, {', '.join(LINEARS)}."
            )
        if self.recipe in ALWAYS_LORA:
            self.use_peft = True

    @property
    def targets(self) -> tuple[str, ...]:
        """Linear maps with LoRA."""
        return LINEARS if "all-linear" in self.lora_target_modules else tuple(dict.fromkeys(self.lora_target_modules))

    @property
    def precision(self) -> Precision:
        """Bytes of numbers while it trains."""
        return Precision(4 if self.dtype == "float32" else 2, self.bf16)

    @property
    def plain_precision(self) -> Precision:
        """Bytes of numbers outside of training and of EM's passes, where nothing is under autocast."""
        return Precision(self.precision.weight)

    @property
    def trained(self) -> Trained:
        """What of the layers is trained."""
        mask = 4 if self.device == "cpu" else 1
        return Trained(self.lora_r if self.use_peft else 0, self.targets, self.lora_dropout > 0, mask)

    @property
    def completion_length(self) -> int:
        """Tokens of a completion."""
        return self.max_length - self.prompt_length

    @property
    def divides_weights(self) -> bool:
        """Whether each process holds a part of the weights."""
        return self.launcher in ("zero3", "fsdp2")

    @property
    def loads_parts(self) -> bool:
        """Whether FSDP2 divides the base as it is loaded: frozen, with adapters that lie whole beside it, or trained
        whole by GRPO or RLOO.
        """
        copies = self.recipe == "ppo_pal" and self.critic not in ("lora", "head")
        return self.launcher == "fsdp2" and (self.use_peft or self.recipe == "grpo_pal") and not copies

    def adapter_bytes(self, shape: ModelShape, n: int = 1) -> float:
        """Of n adapters, which PEFT holds in float32."""
        return 4.0 * n * shape.adapter_parameters(self.lora_r, self.targets)
