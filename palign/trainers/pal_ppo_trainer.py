"""PALPPOTrainer: TRL's PPO with the reward of the person each prompt belongs to.

Where this differs from TRL's trainer, and why:

1. Loaders are wrapped in `BindingLoader`, which binds people to rows when the loop takes the batch.
2. The optimizer clips gradients before each step (TRL's PPO does not clip), and training stops, going back to the last
   good weights, when the KL or the share of empty completions stays beyond a limit.
3. `save_model` writes the policy from a gathered state dict (as shipped it crashes in several processes).
4. Statistics of the optimisation are rescaled where TRL averages them over a table it fills only in part.
"""

import gc
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftConfig
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.rewards import BindingLoader, BoundRows, PersonalizedReward, ScoredRow
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_data import PolicyRows, prepare_rows
from trl.experimental.ppo import PPOTrainer


logger = get_logger(__name__)

# TRL averages these over a table of (epochs, num_mini_batches, gradient_accumulation_steps)
_TABLE_METRICS = (
    "policy/approxkl_avg", "policy/clipfrac_avg", "loss/policy_avg", "loss/value_avg", "val/clipfrac_avg",
    "policy/entropy_avg", "val/ratio",
)  # fmt: skip


class _TrainingStopped(Exception):
    """Raised where the loop takes its next batch, to leave TRL's training loop."""


class PALPPOTrainer(PPOTrainer):
    """TRL's `PPOTrainer` on rows with a name on each of them.

    Args:
        model: the policy, a causal language model.
        reward: a `PersonalizedReward`.
        args: a `PALPPOConfig`.
        processing_class: the policy's tokenizer, padding on the left, pad token unlike eos.
        train_dataset: rows with `prompt` and `annotator_id` (a `datasets.Dataset` or a list of dicts), and the column
            `args.group_column` if rewards are to be reported by it.
        eval_dataset: likewise, for the sample table; None shows rollouts.
        who: names for the people, needed with `policy_conditioning="prompt"`.
        value_model: with `.score`; default: made from the policy by `make_value_model`.
        ref_model: default: the policy without its adapter, or a copy of it.
        peft_config: of the policy's adapter; None trains the whole policy.
        callbacks: as in TRL.

    Raises:
        ValueError: rows, tokenizer or arguments that cannot work; said before anything is trained.
        RuntimeError: rewards and people are out of step, or a reward is not finite.
    """

    _tag_names = ["trl", "ppo", "palign"]

    def __init__(
        self,
        model: PreTrainedModel,
        reward: PersonalizedReward,
        args: PALPPOConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset | Sequence[dict[str, Any]],
        *,
        eval_dataset: Dataset | Sequence[dict[str, Any]] | None = None,
        who: WhoIsAsking | None = None,
        value_model: nn.Module | None = None,
        ref_model: PreTrainedModel | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ) -> None:
        check_tokenizer(processing_class)
        if args.policy_conditioning is PolicyConditioning.PROMPT and who is None:
            raise ValueError(
                "policy_conditioning='prompt' writes who is asking into the prompt, and no `who` was given. Pass "
                "WhoIsAsking.from_weights(ids, reward_model.weights_for(ids)), or set policy_conditioning='none'."
            )
        self.reward = reward
        self.socket = reward.for_ppo(processing_class)
        who = who if args.policy_conditioning is PolicyConditioning.PROMPT else None
        prepare = {"args": args, "tokenizer": processing_class, "who": who, "socket": self.socket}
        self.train_rows = prepare_rows(train_dataset, name="train_dataset", **prepare)
        self.eval_rows = None if eval_dataset is None else prepare_rows(eval_dataset, name="eval_dataset", **prepare)
        self.history: list[dict[str, float]] = []
        self.stopped_because: str | None = None
        self._n_beyond_limit = 0
        self._good_weights: dict[str, torch.Tensor] = {}
        super().__init__(
            args=args,
            processing_class=processing_class,
            model=model,
            ref_model=ref_model,
            reward_model=self.socket,
            train_dataset=self.train_rows.dataset,
            value_model=make_value_model(model) if value_model is None else value_model,
            data_collator=DataCollatorWithPadding(processing_class),
            eval_dataset=None if self.eval_rows is None else self.eval_rows.dataset,
            callbacks=callbacks,
            peft_config=peft_config,
        )
        self.dataloader = BindingLoader(self.dataloader, self._bind_training)
        self.eval_dataloader = BindingLoader(self.eval_dataloader, self._bind_eval)

    # ---- who the rows belong to -------------------------------------------------------------------------------------

    def _bind_training(self, rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        if self.stopped_because:
            raise _TrainingStopped
        self.socket.bind(self.train_rows.bound(rows, batch["input_ids"], is_training=True))

    def _bind_eval(self, rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        assert self.eval_rows is not None
        self.socket.bind(self.eval_rows.bound(rows, batch["input_ids"], is_training=False))

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """TRL's optimizer, which now clips gradients to `max_grad_norm` before each step (DeepSpeed clips by itself)."""
        optimizer = super().create_optimizer(*args, **kwargs)
        is_deepspeed = getattr(self.accelerator.state, "deepspeed_plugin", None) is not None
        if self.args.max_grad_norm and not is_deepspeed:
            optimizer.register_step_pre_hook(self._clip_gradients)
        return optimizer

    def _clip_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._grad_norm = float(nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm))

    def train(self) -> None:
        """TRL's training loop, left early when a limit is passed. Returns nothing; see `history`, `state.log_history`."""
        gc.collect()
        gc.freeze()  # TRL collects garbage twice per update: spare it every object that is there already
        try:
            super().train()
        except _TrainingStopped:
            self._go_back_to_good_weights()
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        finally:
            gc.unfreeze()
        self.socket.check_all_consumed()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete TRL's metrics of one update, keep them in `history`, and pass on every `logging_steps`-th."""
        if "objective/kl" in logs:
            logs = {**self._corrected(logs), **self._reward_metrics()}
            self.history.append({"step": self.state.global_step, **logs})
            self._watch(logs)
            step, every = self.state.global_step, max(1, int(self.state.logging_steps or 1))
            if not (step % every == 0 or step == 1 or step == self.state.max_steps or self.stopped_because):
                return
        super().log(logs, start_time)

    def _corrected(self, logs: dict[str, float]) -> dict[str, float]:
        """TRL's optimisation statistics, averaged over the cells of its table that were filled."""
        args, logs = self.args, dict(logs)
        n_cells = args.gradient_accumulation_steps
        filled = math.ceil(args.local_mini_batch_size / args.per_device_train_batch_size) / n_cells
        if filled < 1:
            total = args.num_ppo_epochs * args.num_mini_batches * n_cells * self.accelerator.num_processes
            square = logs["val/ratio_var"] * (total - 1) / total + logs["val/ratio"] ** 2
            for name in _TABLE_METRICS:
                logs[name] /= filled
            n_filled = total * filled
            logs["val/ratio_var"] = max(0.0, square / filled - logs["val/ratio"] ** 2) * n_filled / max(1, n_filled - 1)
        return logs

    def _reward_metrics(self) -> dict[str, float]:
        rows = [row for row in self.socket.drain() if row.is_training]
        self._last_rows = rows
        names = self.train_rows.group_names
        sums = torch.zeros(len(names) + 1, 5, dtype=torch.float64)
        for row in rows:
            values = (row.raw_reward, row.reward, float(not row.completion), float(len(row.completion.split())), 1.0)
            cells = [len(names)] + ([names.index(row.group)] if row.group else [])
            sums[cells] += torch.tensor(values, dtype=torch.float64)
        sums = self.accelerator.reduce(sums.float().to(self.accelerator.device), "sum").cpu()
        raw, standardized, empty, words = (sums[-1, :4] / sums[-1, 4].clamp(min=1)).tolist()
        metrics = {"objective/raw_reward": raw, "objective/reward": standardized, "completions/empty_fraction": empty}
        metrics |= {"completions/mean_words": words, "policy/grad_norm": getattr(self, "_grad_norm", float("nan"))}
        for name, cell in zip(names, sums, strict=False):
            if cell[4] > 0:
                metrics[f"groups/{name}/raw_reward"] = (cell[0] / cell[4]).item()
                metrics[f"groups/{name}/reward"] = (cell[1] / cell[4]).item()
        return metrics

    # ---- guards -----------------------------------------------------------------------------------------------------

    def _watch(self, logs: dict[str, float]) -> None:
        """Count updates beyond the limits on KL and empty completions; remember weights within them."""
        args, reasons = self.args, []
        kl, empty = logs["objective/kl"], logs["completions/empty_fraction"]
        if args.max_kl is not None and not kl <= args.max_kl:
            reasons.append(f"objective/kl is {kl:.1f} nats, above max_kl={args.max_kl}")
        if empty > args.max_empty_fraction:
            reasons.append(f"{empty:.0%} of the completions are empty, above max_empty_fraction={args.max_empty_fraction}")
        if not reasons:
            self._n_beyond_limit = 0
            self._keep_weights()
            return
        self._n_beyond_limit += 1
        reason = f"update {self.state.global_step}: {' and '.join(reasons)}"
        logger.warning(f"{reason} ({self._n_beyond_limit} of {args.stop_patience} updates in a row before training stops).")
        if self._n_beyond_limit >= args.stop_patience:
            self.stopped_because = reason
            logger.warning(f"training stops: {reason}. Lower the learning rate or num_ppo_epochs, or raise kl_coef.")

    def _trainable_policy(self) -> dict[str, nn.Parameter]:
        policy = self.accelerator.unwrap_model(self.model).policy
        return {name: p for name, p in policy.named_parameters() if p.requires_grad}

    def _keep_weights(self) -> None:
        # Logged after the optimizer stepped: these weights may already be beyond; those of the update before were within.
        if not self.is_deepspeed_enabled and self.args.max_kl is not None:
            self._good_weights, self._fresh_weights = (
                getattr(self, "_fresh_weights", {}),
                {name: p.detach().clone() for name, p in self._trainable_policy().items()},
            )

    def _go_back_to_good_weights(self) -> None:
        if not self._good_weights:
            logger.warning("there are no earlier weights to go back to; the policy is as the last update left it.")
            return
        with torch.no_grad():
            for name, parameter in self._trainable_policy().items():
                parameter.copy_(self._good_weights[name])
        logger.warning("the policy went back to the last weights that were within the limits.")

    # ---- samples and saving -----------------------------------------------------------------------------------------

    def generate_completions(self, sampling: bool = False) -> None:
        """Show a table of prompt, person, completion and reward: of the eval set if there is one, else of the rollouts."""
        if self.eval_rows is not None:
            super().generate_completions(sampling)
        elif self._last_rows:
            self.print_samples(self._last_rows)

    def print_samples(self, rows: Sequence[ScoredRow]) -> None:
        """Print up to `n_table_rows` scored rows as a table, on the main process."""
        if not self.accelerator.is_main_process:
            return
        lines = [f"{'person':<16}{'group':<12}{'reward':>7}  completion ← prompt"]
        lines += [
            f"{row.annotator_id[:15]:<16}{row.group[:11]:<12}{row.reward:>7.2f}  {row.completion[:90]!r} ← {row.prompt[-50:]!r}"
            for row in rows[: self.args.n_table_rows]
        ]
        print("\n".join(["", *lines]), flush=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy (its adapter, with PEFT) and the tokenizer, from a state dict gathered on all processes."""
        output = Path(output_dir or self.args.output_dir)
        wrapper = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:
            return
        state = {name.removeprefix("policy."): value for name, value in wrapper.items() if name.startswith("policy.")}
        policy = self.accelerator.unwrap_model(self.model).policy
        policy.save_pretrained(output, state_dict=state, safe_serialization=True)
        self.processing_class.save_pretrained(output)


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` unless `tokenizer` pads on the left with a token other than eos, as TRL's PPO needs."""
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ValueError(
            f"the policy's tokenizer has pad token {tokenizer.pad_token!r} and eos token {tokenizer.eos_token!r}; PPO tells "
            "padding from the end of a completion, so they must differ. Give the tokenizer a pad token of its own: "
            "`tokenizer.add_special_tokens({'pad_token': '[PAD]'})`, and resize the model's embeddings."
        )
    if tokenizer.padding_side != "left":
        raise ValueError(
            f"the policy's tokenizer pads on the {tokenizer.padding_side}; PPO generates behind the prompt and needs "
            "`tokenizer.padding_side = 'left'`."
        )


def make_value_model(policy: PreTrainedModel, *, n_layers: int | None = None) -> PreTrainedModel:
    """A value model for `policy`: its body with a score head that starts at zero.

    Args:
        policy: a causal language model; its weights are copied.
        n_layers: keep only the first layers of the body; None keeps all.
    """
    from transformers import AutoModelForSequenceClassification

    config = type(policy.config).from_dict({**policy.config.to_dict(), "num_labels": 1})
    if n_layers is not None:
        config.num_hidden_layers = n_layers
    value = AutoModelForSequenceClassification.from_config(config).to(policy.dtype)
    body = getattr(value, value.base_model_prefix)
    state = getattr(policy, policy.base_model_prefix).state_dict()
    body.load_state_dict({name: tensor for name, tensor in state.items() if name in body.state_dict()})
    nn.init.zeros_(value.score.weight)
    return value
