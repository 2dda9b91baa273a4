"""PALPPOTrainer: TRL's PPO with the reward of the person each prompt belongs to.

Where this differs from TRL's trainer, and why:

1. Loaders are wrapped in `BindingLoader`, which binds people to rows when the loop takes the batch.
2. The optimizer clips gradients before each step (TRL's PPO does not clip), and training stops, going back to the last
   good weights, when the KL or the share of empty completions stays beyond a limit.
3. `save_model` writes the policy from a gathered state dict (as shipped it crashes in several processes), and the
   data-parallel wrapper shows the policy it wraps (as shipped, LoRA without `ref_model` crashes there).
4. Statistics of the optimisation are corrected where TRL averages them over a table it fills only in part.
5. It resumes: a checkpoint is written as the loop asks for its next batch, see `pal_ppo_resume`.
"""

import gc
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftConfig, PeftModel
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from trl.experimental.ppo import PPOTrainer
from trl.experimental.ppo.ppo_trainer import batch_generation, truncate_response
from trl.experimental.utils import get_reward
from trl.models.utils import unwrap_model_for_generation

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.binding import BindingLoader
from palign.models.fsdp import is_fsdp, kept_whole
from palign.models.shared_draws import drawn
from palign.rewards import PersonalizedReward, ScoredRow
from palign.trainers.checkpoints import CompleteCheckpoints
from palign.trainers.fsdp_runs import plan_fsdp
from palign.trainers.pal_ppo_config import PALPPOConfig
from palign.trainers.pal_ppo_data import check_tokenizer, prepare_rows
from palign.trainers.pal_ppo_resume import load_progress, save_progress
from palign.trainers.policy_card import write_policy_card
from palign.trainers.policy_metrics import reward_metrics, sample_table
from palign.trainers.policy_resume import reward_words
from palign.trainers.policy_rows import require_one_batch
from palign.trainers.ppo_flags import checkpoint_activations, heed_max_steps, mixed_precision
from palign.trainers.ppo_guard import CollapseGuard
from palign.trainers.ppo_metrics import correct_table_metrics
from palign.trainers.value_model import make_value_model
from palign.writing import saving, whole_files

logger = get_logger(__name__)


class _TrainingStopped(Exception):
    """Raised where the loop takes its next batch, to leave TRL's training loop."""


class _StandIn(nn.Module):
    """What TRL gets for a reward model while it sets up: under DeepSpeed it hands it to an engine."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=1)
        self.nothing = nn.Parameter(torch.zeros(1))


class PALPPOTrainer(CompleteCheckpoints, PPOTrainer):
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
        judge: an independent judge, (completion, annotator_id) → utility, logged beside the reward to show reward
            hacking (`objective/gold`, `groups/<name>/gold`); it trains nothing.

    Attributes:
        history: one dict of metrics per update, with `step`.
        guard: the `CollapseGuard`; `guard.stop_reason` says why training stopped early, if it did.

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
        judge: Callable[[str, str], float] | None = None,
    ) -> None:
        check_tokenizer(processing_class)
        if args.policy_conditioning is not PolicyConditioning.PROMPT:
            who = None
        elif who is None:
            raise ValueError(
                "policy_conditioning='prompt' writes who is asking into the prompt, and no `who` was given. Pass "
                "WhoIsAsking.from_weights(ids, reward_model.weights_for(ids)), or set policy_conditioning='none'."
            )
        self.reward = reward
        self.judge, self.who = judge, who
        self.socket = reward.for_ppo(processing_class)
        prepare = {"args": args, "tokenizer": processing_class, "who": who, "socket": self.socket}
        self.train_rows = prepare_rows(train_dataset, name="train_dataset", **prepare)
        self.eval_rows = None if eval_dataset is None else prepare_rows(eval_dataset, name="eval_dataset", **prepare)
        require_one_batch(len(self.train_rows.prompts), args)
        self.history: list[dict[str, float]] = []
        self.guard = CollapseGuard(args.max_kl, args.max_empty_fraction, args.stop_patience)
        self._latest_rows: list[ScoredRow] = []
        self._grad_norm: torch.Tensor | float = float("nan")
        self._checkpoint_is_due = False
        self._table_every = 1  # updates between sample tables
        heed_max_steps(args)
        with mixed_precision(args):
            super().__init__(
                args=args,
                processing_class=processing_class,
                model=model,
                ref_model=ref_model,
                reward_model=_StandIn(),
                train_dataset=self.train_rows.dataset,
                value_model=make_value_model(model) if value_model is None else value_model,
                data_collator=DataCollatorWithPadding(processing_class),
                eval_dataset=None if self.eval_rows is None else self.eval_rows.dataset,
                callbacks=callbacks,
                peft_config=peft_config,
            )
        # read by each process for itself, outside of `forward`: its weights stay whole, and no engine's
        self.reward_model = self.socket.to(self.accelerator.device)
        self.dataloader = BindingLoader(self.dataloader, self._bind_training, before_take=self._write_due_checkpoint)
        self.eval_dataloader = BindingLoader(self._eval_loader(), self._bind_eval)
        self.is_fsdp_xla_v1_enabled = False  # transformers asks as it loads an optimizer, and TRL's PPO never says
        # TRL accumulates over rows of one batch; at a loader's last batch Accelerate would step at each part of it
        self.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
        self._show_wrapped_policy()
        self._rollout = ExitStack()  # open from the taking of a batch to its first forward pass of training
        if is_fsdp(self.model):
            self.model.register_forward_pre_hook(lambda *_: self._rollout.close(), prepend=True)
        if args.gradient_checkpointing:
            checkpoint_activations(self.model, self.accelerator)

    def _eval_loader(self) -> DataLoader:
        """TRL's drops what does not fill a batch on every process, which may be all there is."""
        if self.eval_rows is None:
            return self.eval_dataloader
        size, rows = self.args.per_device_eval_batch_size, self.eval_rows.dataset
        return self.accelerator.prepare(DataLoader(rows, batch_size=size, collate_fn=self.data_collator))

    def _show_wrapped_policy(self) -> None:
        """TRL reads `model.policy` of the prepared model; let a data-parallel wrapper answer (not as a submodule)."""
        wrapped = self.accelerator.unwrap_model(self.model)
        if wrapped is not self.model and not hasattr(self.model, "policy"):
            for name in ("policy", "value_model", "config"):
                object.__setattr__(self.model, name, getattr(wrapped, name))

    def _bind_training(self, rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        if self.guard.stop_reason:
            raise _TrainingStopped
        self._rollout.enter_context(kept_whole(self.model))  # policy, reference and value are run by themselves
        context_length = batch["input_ids"].shape[1]
        self.socket.bind(self.train_rows.bound(rows, context_length=context_length, is_training=True))

    def _bind_eval(self, rows: list[int], batch: dict[str, torch.Tensor]) -> None:
        assert self.eval_rows is not None
        context_length = batch["input_ids"].shape[1]
        self.socket.bind(self.eval_rows.bound(rows, context_length=context_length, is_training=False))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """TRL's optimizer, clipping gradients to `max_grad_norm` before each step (DeepSpeed clips by itself)."""
        plan_fsdp(self.accelerator, self.model)  # TRL has the model divided right after this
        optimizer = super().create_optimizer(*args, **kwargs)
        is_deepspeed = getattr(self.accelerator.state, "deepspeed_plugin", None) is not None
        if self.args.max_grad_norm and not is_deepspeed:
            optimizer.register_step_pre_hook(self._clip_gradients)
        return optimizer

    def _clip_gradients(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._grad_norm = nn.utils.clip_grad_norm_(parameters, self.args.max_grad_norm)

    writes_own_weights = True

    def train(self, resume_from_checkpoint: str | bool | None = None) -> None:
        """TRL's training loop, left early if the guard says so; the metrics of every update are in `history`.

        Args:
            resume_from_checkpoint: True: go on from the last complete checkpoint in `output_dir`, or begin where
                there is none; or the folder of a checkpoint.

        Raises:
            ValueError: the checkpoint is not complete, or of another run.
            SavingError: a checkpoint could not be written; those before it are intact.
        """
        resume, n_updates = self.agreed_resume_point(resume_from_checkpoint), self.args.num_total_batches
        begin_at = None if resume is None else load_progress(self, Path(resume))
        if begin_at is not None:
            self.add_callback(begin_at)
            if begin_at.n_updates == n_updates:  # nothing is left, and whoever draws next draws as he would have
                self._load_rng_state(resume)
        if self.args.standardize_rewards and self.reward.standardize and not len(self.reward.scales):
            self.fit_reward_scales()
        self._table_every = getattr(self, "sample_generations_freq", 1)
        self.sample_generations_freq = 1  # TRL counts from where this process began, `generate_completions` does not
        gc.collect()
        gc.freeze()  # TRL collects garbage twice per update: spare it every object that is there already
        try:
            PPOTrainer.train(self)
            self._write_due_checkpoint()
        except _TrainingStopped:
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        finally:
            gc.unfreeze()
            self._rollout.close()
            self.args.num_total_batches = n_updates
            self.sample_generations_freq, self._table_every = self._table_every, 1
            if begin_at is not None:
                self.remove_callback(begin_at)
        if self.guard.stop_reason:  # also at the last update, after which the loop takes no batch
            went_back = self.guard.restore(self._trainable_policy_parameters())
            end = "went back to the last weights within the limits" if went_back else "is as the last update left it"
            logger.warning(f"stopped after {self.state.global_step} updates; the policy {end}.")
        self.socket.check_all_consumed()

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Later, as the loop asks for its next batch: a sample table may draw random numbers before."""
        self._checkpoint_is_due = True

    def _write_due_checkpoint(self) -> None:
        if self._checkpoint_is_due:
            self._checkpoint_is_due = False
            super()._save_checkpoint(self.model, None)

    def deciding(self) -> dict[str, Any]:
        """The reward."""
        return reward_words(self.reward)

    def save_beside(self, folder: Path) -> None:
        """What transformers does not write."""
        save_progress(self, folder)

    @torch.no_grad()
    def fit_reward_scales(self) -> None:
        """Fit every person's reward scale on completions of the reference policy, which the processes share out."""
        args, rows = self.args, self.train_rows
        generator = torch.Generator().manual_seed(args.seed)
        picked = torch.randint(len(rows.prompts), (args.n_reference_completions,), generator=generator).tolist()
        queries = self.data_collator([{"input_ids": rows.dataset[row]["input_ids"]} for row in picked])["input_ids"]

        def draw(part: torch.Tensor) -> list[str]:
            answers = self._generate(part.to(self.accelerator.device), args.temperature)
            return self.processing_class.batch_decode(answers, skip_special_tokens=True)

        with self.null_ref_context():
            parts = queries.split(args.local_rollout_forward_batch_size)
            drawings = drawn(parts, draw, seed=args.seed, model=self.model, together=True)
        texts = [text for part in drawings for text in part]
        people = None if self.reward.weights is not None else [*rows.annotator_ids, *self._eval_people()]
        self.reward.fit_scales([rows.prompts[row] for row in picked], texts, people)

    def _eval_people(self) -> list[str]:
        return [] if self.eval_rows is None else self.eval_rows.annotator_ids

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete the metrics of one update, keep them in `history`, and pass on every `logging_steps`-th."""
        if "objective/kl" in logs:
            step, every = self.state.global_step, max(1, int(self.state.logging_steps or 1))
            logs = self._complete(logs)
            self.history.append({"step": step, **logs})
            warning = self.guard.watch(step, logs["objective/kl"], logs["completions/empty_fraction"])
            if warning:
                logger.warning(warning)
            elif not (self.is_deepspeed_enabled or self.is_fsdp_enabled):
                self.guard.keep(self._trainable_policy_parameters())
            if step % every and step not in (1, self.state.max_steps) and not self.guard.stop_reason:
                return
        super().log(logs, start_time)

    def _complete(self, logs: dict[str, float]) -> dict[str, float]:
        rows = [row for row in self.socket.drain() if row.is_training]
        self._latest_rows = rows
        return {
            **correct_table_metrics(logs, self.args, self.accelerator.num_processes),
            **reward_metrics(rows, self.train_rows.group_names, self.accelerator, self.judge),
            "policy/grad_norm": float(self._grad_norm),
        }

    def _trainable_policy_parameters(self) -> dict[str, nn.Parameter]:
        policy = self.accelerator.unwrap_model(self.model).policy
        return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}

    def generate_completions(self, sampling: bool = False) -> None:
        """Print a table of person, reward, completion and prompt: of the eval rows if there are any, else of rollouts.

        Args:
            sampling: whether one batch of the eval rows is enough.
        """
        if sampling and (self.state.global_step - 1) % self._table_every:
            return
        rows = self._latest_rows if self.eval_rows is None else self._score_eval_rows(sampling)
        if self.accelerator.is_main_process and rows:
            print(
                f"\nafter update {self.state.global_step}\n{sample_table(rows[: self.args.n_table_rows])}", flush=True
            )

    @torch.no_grad()
    def _score_eval_rows(self, only_first_batch: bool) -> list[ScoredRow]:
        pad = self.processing_class.pad_token_id
        training_rows = self.socket.drain()
        for batch in self.eval_dataloader:
            queries = batch["input_ids"].to(self.accelerator.device)
            answers = self._generate(queries, 0.01)
            get_reward(self.socket, torch.cat((queries, answers), 1), pad, queries.shape[1])
            if only_first_batch:
                break
        rows = self.socket.drain()
        self.socket.scored = training_rows
        return rows

    def _generate(self, queries: torch.Tensor, temperature: float) -> torch.Tensor:
        """Completions `(rows, response)` of `queries` `(rows, context)`, cut and padded behind the stop token."""
        settings = {"max_new_tokens": self.args.response_length, "temperature": temperature + 1e-7, "do_sample": True}
        settings |= {"top_k": 0, "top_p": 1.0}
        pad, size = self.processing_class.pad_token_id, self.args.local_rollout_forward_batch_size
        gather = self.args.ds3_gather_for_generation
        unwrap = {"gather_deepspeed3_params": gather, "generation_kwargs": settings}
        with (
            kept_whole(self.model),
            unwrap_model_for_generation(self.model, self.accelerator, **unwrap) as unwrapped,
        ):
            config = GenerationConfig(**settings)
            sequences, _ = batch_generation(unwrapped.policy, queries, size, pad, config)
        answers = sequences[:, queries.shape[1] :]
        return answers if self.stop_token_id is None else truncate_response(self.stop_token_id, pad, answers)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy (its adapter, with PEFT), the tokenizer and a model card, from a state dict gathered on all
        processes.
        """
        output = Path(output_dir or self.args.output_dir)
        gathered = self.accelerator.get_state_dict(self.model)
        if not self.accelerator.is_main_process:
            return
        state = {name.removeprefix("policy."): value for name, value in gathered.items() if name.startswith("policy.")}
        policy = self.accelerator.unwrap_model(self.model).policy
        with saving(output, "The policy"), whole_files(output, _last_file(policy)) as beside:
            policy.save_pretrained(beside, state_dict=state)
            self.processing_class.save_pretrained(beside)
            what = (policy, self.args, self.train_rows, self.history)
            write_policy_card(beside, *what, algorithm="PPO", who=self.who)


def _last_file(policy: PreTrainedModel) -> str:
    return "adapter_config.json" if isinstance(policy, PeftModel) else "config.json"
