"""Names that PPO's options had up to palign's build on TRL 1.12: taken for one version, each with a sentence."""

import logging
from dataclasses import dataclass, field

__all__ = ["FormerNames"]

logger = logging.getLogger(__name__)
RENAMED = {
    "response_length": "max_completion_length",
    "num_ppo_epochs": "num_iterations",
    "cliprange": "epsilon",
}
NOTHING = {
    "local_rollout_forward_batch_size": "log-probabilities are computed per_device_train_batch_size rows at a time",
    "num_sample_generations": "the table of samples comes with the log (logging_steps, n_table_rows)",
    "stop_token": "completions end at eos",
    "kl_estimator": "the KL is the difference of log-probabilities (k1)",
}


@dataclass
class FormerNames:
    """Options by their former names; None where they are not given."""

    response_length: int | None = field(
        default=None, metadata={"help": "Former name: max_completion_length. Taken for one version."}
    )
    num_ppo_epochs: int | None = field(
        default=None, metadata={"help": "Former name: num_iterations. Taken for one version."}
    )
    cliprange: float | None = field(default=None, metadata={"help": "Former name: epsilon. Taken for one version."})
    num_mini_batches: int | None = field(
        default=None,
        metadata={
            "help": "Former name: steps_per_generation over gradient_accumulation_steps. Taken for one version."
        },
    )
    total_episodes: int | None = field(
        default=None, metadata={"help": "Former name: max_steps, which it sets. Taken for one version."}
    )
    value_model_layers: int | None = field(
        default=None, metadata={"help": "Former name: critic=layers:N. Taken for one version."}
    )
    local_rollout_forward_batch_size: int | None = field(
        default=None, metadata={"help": "Former name: none, no longer needed. Taken for one version."}
    )
    num_sample_generations: int | None = field(
        default=None, metadata={"help": "Former name: none, no longer needed. Taken for one version."}
    )
    stop_token: str | None = field(
        default=None, metadata={"help": "Former name: none, no longer needed. Taken for one version."}
    )
    kl_estimator: str | None = field(
        default=None, metadata={"help": "Former name: none, no longer needed. Taken for one version."}
    )

    def take_former_names(self) -> None:
        """Write what was given by a former name where it belongs now, and say so; before TRL looks at the options."""
        for name, now in RENAMED.items():
            value = getattr(self, name)
            if value is not None:
                setattr(self, now, value)
                _say(name, value, f"{now}={value}")
                setattr(self, name, None)
        for name, reason in NOTHING.items():
            if getattr(self, name) is not None:
                _say(name, getattr(self, name), f"nothing: {reason}")
                setattr(self, name, None)
        if self.value_model_layers is not None:
            self.critic = f"layers:{self.value_model_layers}"
            _say("value_model_layers", self.value_model_layers, f"critic={self.critic}")
            self.value_model_layers = None
        if self.num_mini_batches is not None:
            self._take_mini_batches(self.num_mini_batches)
            self.num_mini_batches = None

    def _take_mini_batches(self, n_mini_batches: int) -> None:
        """Rollouts were per_device_train_batch_size x gradient_accumulation_steps, cut into so many mini-batches."""
        n_rollouts = self.per_device_train_batch_size * self.gradient_accumulation_steps
        if n_mini_batches < 1 or n_rollouts % n_mini_batches:
            raise ValueError(
                f"num_mini_batches={n_mini_batches} does not divide per_device_train_batch_size x "
                f"gradient_accumulation_steps = {n_rollouts}. Give per_device_train_batch_size, "
                "gradient_accumulation_steps (of an optimizer step) and steps_per_generation (of a rollout) instead."
            )
        n_mini = n_rollouts // n_mini_batches
        if n_mini % min(self.per_device_train_batch_size, n_mini):
            raise ValueError(
                f"a mini-batch of {n_mini} rows is no multiple of per_device_train_batch_size="
                f"{self.per_device_train_batch_size}; give one that divides it."
            )
        self.per_device_train_batch_size = min(self.per_device_train_batch_size, n_mini)
        self.gradient_accumulation_steps = n_mini // self.per_device_train_batch_size
        self.steps_per_generation = n_rollouts // self.per_device_train_batch_size
        now = ("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation")
        _say("num_mini_batches", n_mini_batches, ", ".join(f"{name}={getattr(self, name)}" for name in now))

    def take_total_episodes(self) -> None:
        """`max_steps` from `total_episodes`, where that was given; once TRL has worked out the batches."""
        if self.total_episodes is None:
            return
        n_rollouts = max(1, -(-self.total_episodes // self.generation_batch_size))
        n_steps = self.num_iterations * self.steps_per_generation // self.gradient_accumulation_steps
        if self.max_steps <= 0:
            self.max_steps = n_rollouts * max(1, n_steps)
        _say("total_episodes", self.total_episodes, f"max_steps={self.max_steps} (optimizer steps)")
        self.total_episodes = None


def _say(name: str, value: object, now: str) -> None:
    logger.warning("%s=%s is a former name, taken for this version only; it now is %s.", name, value, now)
