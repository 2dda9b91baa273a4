"""PALPPOTrainer: PPO with a critic on TRL's GRPO trainer, rewarded by the person each prompt belongs to.

TRL draws the completions, calls the reward with the columns of each row, computes log-probabilities of policy and
reference by a forward pass, and clips the policy's loss, which takes advantages of shape (batch, time). What is here:

1. Rewards of tokens: −`kl_coef` × (log π − log π_ref) at each, and the completion's reward at its last.
2. A critic (`palign/trainers/ppo/critic.py`), generalised advantages, and the clipped loss of the values.
3. Advantages are standardized, and losses averaged, over all tokens of the rollout on all processes; so the steps do
   not depend on how a batch is divided.
4. The guard judges every rollout, by the weights that drew it.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer

from palign.parallel.deepspeed_launch import is_zero_3
from palign.parallel.sharded import divided_parameters, set_whole, whole_tensor
from palign.reading import number_in, read_json, read_tensors
from palign.rewards import PersonalizedReward
from palign.trainers.pal_grpo_trainer import PersonalGroupTrainer
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.policy.resume import copies
from palign.trainers.policy.rows import cut_prompt, query_ids
from palign.trainers.ppo.advantages import clipped_value_loss, generalised_advantages, standardized, token_rewards
from palign.trainers.ppo.critic import (
    ADAPTER,
    RecomputeUnderItsAdapter,
    critic_route,
    critic_set_aside,
    let_learn,
    put_critic,
)
from palign.trainers.ppo.passes import PackedRows, StatePasses, settled

__all__ = ["PALPPOTrainer"]

logger = get_logger(__name__)
CRITIC, PROGRESS = "critic.safetensors", "ppo.json"
NOT_OF_A_ROLLOUT = ("step_time", "grad_norm", "num_tokens")


class PALPPOTrainer(PersonalGroupTrainer, GRPOTrainer):
    """PPO on rows with a name on each of them; arguments as of `PersonalGroupTrainer`, `args` a `PALPPOConfig`.

    Attributes:
        critic: the `Critic`; its adapter, where it has one, is `critic` on the policy.
        kl_coef: as it is now; it follows `args.kl_target`.
    """

    _tag_names = ["trl", "ppo", "palign"]
    algorithm = "ppo"
    args: PALPPOConfig
    writes_own_weights = True

    def __init__(
        self,
        model: PreTrainedModel,
        reward: PersonalizedReward,
        args: PALPPOConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset | Sequence[dict[str, Any]],
        *,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        judge: Callable[[str, str], float] | None = None,
        **rest: Any,
    ) -> None:
        if args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # policy and critic are run one after the other, every time
        self.kl_coef, self._rollouts, self._value_sums = args.kl_coef, [], torch.zeros(3)
        self._policy_states: Tensor | None = None
        self._settles: list[nn.Parameter] = []
        beta = args.beta
        args.beta = beta or 1.0  # so that TRL holds a reference, from which the KL in the reward is measured
        try:
            super().__init__(
                model, reward, args, processing_class, train_dataset,
                peft_config=peft_config, callbacks=callbacks, judge=judge, **rest,
            )  # fmt: skip
        finally:
            args.beta = beta
        if args.gradient_checkpointing and args.critic == "lora":
            self._recompute_under_adapters()

    @staticmethod
    def _check_reference(model: PreTrainedModel, args: PALPPOConfig, peft_config: PeftConfig | None) -> None:
        if peft_config is None and not hasattr(model, "peft_config") and not getattr(model, "name_or_path", ""):
            raise ValueError(
                "PPO measures the KL from a reference, which TRL reads from the model's folder when all of it is "
                "trained, and this one was made in the process. Train an adapter (--use_peft), or save the model and "
                "load it from its folder."
            )

    def _complete_model(self) -> None:
        args = self.args
        self.critic = put_critic(self.model, args.critic, lora_r=args.critic_lora_r, seed=args.seed)
        self.divided = [*self.divided, *divided_parameters(self.critic)]
        let_learn(self.model)
        self._critic_route = critic_route(self.model, args.critic)
        self.passes = StatePasses(
            self.accelerator,
            temperature=self.temperature,
            is_divided=self._divides_weights(),
            may_read_head=not getattr(self, "_entropy_bonus_enabled", False),
        )

    def _divides_weights(self) -> bool:
        return self.is_fsdp_enabled or is_zero_3(self.accelerator) or self.is_beside_divided

    def _recompute_under_adapters(self) -> None:
        given = self.args.gradient_checkpointing_kwargs or {}
        self.args.gradient_checkpointing_kwargs = {
            **given, "use_reentrant": False, "context_fn": RecomputeUnderItsAdapter(self.model),
        }  # fmt: skip

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As of transformers; in it the critic has `critic_learning_rate`."""
        let_learn(self.model)
        optimizer = super().create_optimizer(*args, **kwargs)
        rate = self.args.critic_learning_rate
        if rate is not None:
            of_critic = {id(parameter) for parameter in self._critic_parameters().values()}
            for group in list(optimizer.param_groups):
                theirs = [p for p in group["params"] if id(p) in of_critic]
                group["params"] = [p for p in group["params"] if id(p) not in of_critic]
                if theirs:
                    optimizer.add_param_group({**group, "params": theirs, "lr": rate})
        return optimizer

    def _critic_parameters(self) -> dict[str, nn.Parameter]:
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        return {name: p for name, p in named if p.requires_grad and _is_critics(name)}

    def _trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in super()._trainable_parameters().items() if not _is_critics(name)}

    # rollouts

    @contextmanager
    def _beta_of(self, value: float) -> Iterator[None]:
        """TRL computes the reference's log-probabilities, and a KL in the loss, where `beta` is not 0."""
        before, self.beta = self.beta, value
        try:
            yield
        finally:
            self.beta = before

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """TRL's, at most `max_prompt_length` of each; no eos stands behind a text."""
        ids, *rest = super()._tokenize_prompts(prompts)
        if isinstance(prompts[0], str):
            ids = query_ids(prompts, self.processing_class)
        limit = self.args.max_prompt_length
        return (ids if limit is None else [cut_prompt(row, self.processing_class, limit) for row in ids], *rest)

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        rewards = super()._calculate_rewards(*args, **kwargs)
        n_rows = len(rewards) // self.accelerator.num_processes
        first = self.accelerator.process_index * n_rows
        self._scores = rewards[first : first + n_rows].sum(1)
        return rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """TRL's, and with it values, returns and advantages (batch, time)."""
        self._policy_states = None
        with self._beta_of(1.0):
            batch = super()._generate_and_score_completions(inputs)
        let_learn(self.model)  # PEFT has frozen the critic's adapter as it went back from the reference
        mask = batch["completion_mask"].float()
        with torch.no_grad():
            if "old_per_token_logps" not in batch:  # TRL leaves them out where one step follows
                self._policy_states = None
                batch["old_per_token_logps"] = self._logps(batch)
            values = self._values(self.model, batch, self.args.per_device_train_batch_size) * mask
        kl = (batch["old_per_token_logps"] - batch["ref_per_token_logps"]) * mask
        rewards = token_rewards(self._scores, kl, mask, kl_coef=self.kl_coef)
        advantages = generalised_advantages(rewards, values, mask, gamma=self.args.gamma, lam=self.args.lam)
        batch |= {"old_values": values, "returns": advantages + values}
        explained = self._explained(batch["returns"], values, mask)
        mean, variance = self._moments(advantages, mask)
        batch["advantages"] = (
            standardized(advantages, mask, mean, variance) if self.args.whiten_advantages else advantages
        )
        self._note_rollout(kl, explained)
        return batch

    def _get_per_token_logps_and_entropies(
        self,
        model: nn.Module,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **further: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What TRL computes, by `StatePasses` where the model's logits are its head's answer to the last states."""
        rest = {name: value for name, value in further.items() if value is not None}
        if self.passes.head_is_plain is not False and not compute_aux_loss and not rest:
            read = self._read_logps(model, input_ids, attention_mask, logits_to_keep, batch_size)
            if read is not None:
                return read[0], read[1] if compute_entropy else None, None
        return super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, batch_size,
            compute_entropy=compute_entropy, compute_aux_loss=compute_aux_loss, **further,
        )  # fmt: skip

    def _read_logps(
        self, model: nn.Module, ids: Tensor, mask: Tensor, n: int, size: int | None
    ) -> tuple[Tensor, Tensor] | None:
        """Log-probabilities and entropies (batch, n); None where the model's head is not to be read."""
        parts, kept = [], []
        if not torch.is_grad_enabled():
            self.passes.look_up(model, ids, mask, n)
        for packed in self.passes.packed(ids, mask, n, size):
            with self.accelerator.autocast():
                states = self.passes.states(model, packed)
                if not self.passes.head_is_plain:
                    return None
                parts.append(self.passes.logps(model, packed, states))
            kept.append(states.detach())
        if self.args.critic == "head" and self._policy_states is None:
            self._policy_states = torch.cat(kept)
        logps, entropies = zip(*parts, strict=True)
        return torch.cat(logps), torch.cat(entropies)

    def _logps(self, batch: dict[str, Any]) -> Tensor:
        ids, mask = _sequences(batch)
        n, size = batch["completion_ids"].shape[1], self.args.per_device_train_batch_size
        return self._get_per_token_logps_and_entropies(self.model, ids, mask, n, size)[0]

    def _values(self, model: nn.Module, batch: dict[str, Any], size: int | None = None) -> Tensor:
        """Values (batch, time) of the states before each token of a completion; `size` rows at a time."""
        ids, mask = _sequences(batch)
        n = batch["completion_ids"].shape[1]
        states, self._policy_states = self._policy_states, None
        if states is not None:  # of the policy's pass, just before
            return PackedRows.of(ids, mask, n, lanes=False).grid(self.critic(states))
        parts = self.passes.packed(ids, mask, n, size)
        return torch.cat([packed.grid(self._values_of(model, packed)) for packed in parts])

    def _values_of(self, model: nn.Module, packed: PackedRows) -> Tensor:
        with self.accelerator.autocast():
            if self.critic.body is not None:
                return packed.picked(self.critic(**packed.inputs))
            learns = torch.is_grad_enabled() and self.args.critic == "lora"
            with self._critic_route, torch.set_grad_enabled(learns):
                states = self.passes.states(model, packed)
        return self.critic(states)

    def _moments(self, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance over all tokens of all processes."""
        total, n = self.accelerator.reduce(torch.stack([(values * mask).sum(), mask.sum()]), "sum")
        mean = total / n.clamp(min=1)
        squares = self.accelerator.reduce((((values - mean) ** 2) * mask).sum(), "sum")
        return mean, squares / n.clamp(min=1)

    def _explained(self, returns: Tensor, values: Tensor, mask: Tensor) -> float:
        """Share of the returns' variance that the values foretold; NaN where the returns do not vary."""
        _, variance = self._moments(returns, mask)
        _, rest = self._moments(returns - values, mask)
        return float(1 - rest / variance) if variance > 0 else float("nan")

    def _note_rollout(self, kl: Tensor, explained: float) -> None:
        """Metrics of the rollout, the guard's judgement, and the next `kl_coef`."""
        mode = "train" if self.model.training else "eval"
        total, n = self.accelerator.reduce(torch.stack([kl.sum(), kl.new_tensor(len(kl))]), "sum").tolist()
        metrics = self._metrics[mode]
        metrics["objective/kl"].append(total / n)
        metrics["objective/kl_coef"].append(self.kl_coef)
        metrics["critic/explained_variance"].append(explained)
        if mode == "eval":
            return
        latest = {name: values[-1] for name, values in metrics.items() if values and name not in NOT_OF_A_ROLLOUT}
        self._rollouts.append({"step": self.state.global_step, **latest})
        self._judge(latest)
        if self.args.kl_target is not None:  # equation 12 of Ziegler et al. (arXiv 1909.08593)
            error = max(-0.2, min(0.2, total / n / self.args.kl_target - 1))
            self.kl_coef *= 1 + error * n / self.args.kl_horizon

    def _judge(self, latest: dict[str, float]) -> None:
        step = self.state.global_step
        warning = self.guard.watch(step, latest["objective/kl"], latest["completions/empty_fraction"])
        if self.guard.stop_reason:
            self.control.should_training_stop = True
        if warning:
            logger.warning(warning)
        elif not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
            self.guard.keep(self._trainable_parameters(), are_good=True)

    def _watch(self, entry: dict[str, float]) -> None:
        """Every rollout was judged as it was drawn; here what the log says of it."""
        cut = entry.get("completions/clipped_ratio")
        if cut is not None and cut > 0.5 and not getattr(self, "_cut_said", False):
            self._cut_said = True
            logger.warning(
                f"{cut:.0%} of the completions were cut at max_completion_length={self.args.max_completion_length}: "
                "they are rewarded as they stand, less missing_eos_penalty. Raise it if answers should end."
            )

    @property
    def history(self) -> list[dict[str, float]]:
        """Metrics of every rollout, with `step`, the optimizer steps before it. A resumed run has all of it."""
        return [{**entry, "n_updates": self.state.global_step} for entry in self._rollouts]

    # losses

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        """The policy's loss of TRL and `vf_coef` times the critic's, both over all tokens of the step."""
        value_loss, self._policy_states = None, None
        if self.args.critic == "lora" and torch.is_grad_enabled() and self.passes.is_free:
            # two passes through one base: what the first keeps for its gradients is gone before the second begins
            self._settles = self._settles or list(self._critic_parameters().values())
            value_loss = settled(self._value_loss(model, inputs), self._settles)
        with self._beta_of(self.args.beta):
            loss = super()._compute_loss(model, inputs)
        return loss + self.args.vf_coef * (self._value_loss(model, inputs) if value_loss is None else value_loss)

    def _value_loss(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        mask = inputs["completion_mask"].float()
        values = self._values(model, inputs)
        wrong = clipped_value_loss(
            values, inputs["old_values"], inputs["returns"], cliprange=self.args.cliprange_value
        )  # fmt: skip
        left = ((values - inputs["old_values"]).abs() > self.args.cliprange_value).float()
        self._value_sums += torch.stack([(wrong.detach() * mask).sum(), (left * mask).sum(), mask.sum()]).cpu()
        if self.accelerator.sync_gradients:  # of all parts of the step: a mean of means is none of tokens
            self._note_values()
        return (wrong * mask).sum() / self._n_tokens(inputs)

    def _note_values(self) -> None:
        sums, self._value_sums = self._value_sums, torch.zeros(3)
        total, n_left, n = self.accelerator.reduce(sums.to(self.accelerator.device), "sum").tolist()
        metrics = self._metrics["train" if self.model.training else "eval"]
        metrics["loss/value"].append(total / max(n, 1))
        metrics["clip_ratio/value"].append(n_left / max(n, 1))

    def _n_tokens(self, inputs: dict[str, Any]) -> Tensor:
        """What sums over tokens are divided by: a step's share of all tokens, as TRL's 'dapo' has it."""
        n = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            n = n * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        return n

    # files

    def save_beside(self, folder: Path) -> None:
        """With a checkpoint, beside what GRPO writes: the critic, `kl_coef` and the history."""
        super().save_beside(folder)
        if not self.is_deepspeed_enabled:  # whose checkpoint holds it
            weights = {name: whole_tensor(parameter) for name, parameter in self._critic_parameters().items()}
            if self.args.should_save:
                save_file(copies(weights), folder / CRITIC)
        if self.args.should_save:
            progress = {"kl_coef": self.kl_coef, "rollouts": self._rollouts}
            (folder / PROGRESS).write_text(json.dumps(progress) + "\n", encoding="utf-8")

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """As of `PersonalGroupTrainer`; a resumed run has the history of the one before."""
        point = self.agreed_resume_point(resume_from_checkpoint)
        if point is not None and (Path(point) / PROGRESS).is_file():
            path = Path(point) / PROGRESS
            progress = read_json(path, dict, allows_nan=True)
            number_in(progress, "kl_coef", path, least=0)
            if not isinstance(progress.get("rollouts"), list):
                raise ValueError(f"{path}: rollouts is no list of what was logged. Go on from another checkpoint.")
            self.kl_coef, self._rollouts = progress["kl_coef"], progress["rollouts"]
        return super().train(resume_from_checkpoint, **options)

    def read_weights(self, folder: Path) -> None:
        """Policy and critic of a checkpoint, before anything is divided."""
        model = self.accelerator.unwrap_model(self.model)
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, read_tensors(folder / "adapter_model.safetensors"), model.active_adapter)
        else:
            with critic_set_aside(model):
                GRPOTrainer._load_from_checkpoint(self, str(folder), model)
        weights, parameters = read_tensors(folder / CRITIC), self._critic_parameters()
        shapes = {name: getattr(held, "ds_shape", held.shape) for name, held in parameters.items()}
        if {name: values.shape for name, values in weights.items()} != shapes:
            raise ValueError(f"{folder / CRITIC} is of another critic: names or shapes differ. Go on as that run was.")
        with torch.no_grad():
            for name, values in weights.items():
                set_whole(parameters[name], values)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """As of transformers, of the policy alone."""
        model = self.accelerator.unwrap_model(self.model)
        with critic_set_aside(model):
            state_dict = model.state_dict() if state_dict is None else state_dict
            # also what PEFT takes for the policy's: it leaves out the weights of adapters that it knows by name
            state_dict = {name: value for name, value in state_dict.items() if not _is_critics(name)}
            super()._save(output_dir, state_dict)


def _sequences(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask (batch, context + time)."""
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)
    return ids, torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)


def _is_critics(name: str) -> bool:
    return name.startswith("critic.") or f".{ADAPTER}." in name
