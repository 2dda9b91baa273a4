"""PALGRPOTrainer and PALRLOOTrainer: TRL's, with the reward of the person each prompt belongs to.

Where this differs from TRL's trainers, and why:

1. A row is one prompt of one person, so a group of generations is for one person; who that is comes with the row.
2. Every person's reward scale is fitted on completions of the reference before training.
3. Training stops, going back to the last good weights, when the KL or the share of empty completions stays beyond a
   limit.
4. `history` has what was logged, with `objective/kl` in nats per completion (TRL's `kl` is per token).
5. A resumed run goes on with the same rows and the same completions (`palign/trainers/grpo/resume.py`).

PPO (`pal_ppo_trainer.py`) shares `PersonalGroupTrainer`. All of it runs on any TRL from 1.12 on.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.logging import get_logger
from datasets import Dataset
from peft import PeftConfig
from torch import nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOTrainer, RLOOTrainer

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.turns import reads_plain
from palign.models.architectures import agree_on_marks
from palign.models.completions import prompt_ids
from palign.models.files.adapter_files import write_base
from palign.parallel.fsdp_launch import divide_reference, is_fsdp_launch
from palign.parallel.sharded import forwards, is_sharded
from palign.parallel.shared_work import PLAIN_SAMPLING, drawn
from palign.rewards import PersonalizedReward
from palign.trainers.checkpointing.complete import CompleteCheckpoints
from palign.trainers.grpo.divided import DividedGroupTrainer
from palign.trainers.grpo.resume import OrderByEpoch, load_generation, save_generation
from palign.trainers.grpo.reward import RecordedReward
from palign.trainers.grpo.rows import prepare_group_rows
from palign.trainers.pal_grpo_config import GroupAlgorithm, GroupPolicyConfig, PALGRPOConfig, PALRLOOConfig
from palign.trainers.policy.card import write_policy_card
from palign.trainers.policy.collapse import CollapseGuard
from palign.trainers.policy.metrics import sample_table
from palign.trainers.policy.resume import load_watch, reward_record, save_watch
from palign.trainers.policy.rows import require_one_batch
from palign.writing import saving, whole_files

__all__ = ["PALGRPOTrainer", "PALRLOOTrainer", "PersonalGroupTrainer"]

logger = get_logger(__name__)


class PersonalGroupTrainer(CompleteCheckpoints, DividedGroupTrainer):
    """What `PALGRPOTrainer` and `PALRLOOTrainer` add to TRL's trainer of the same name.

    Args:
        model: the policy, a causal language model.
        reward: a `PersonalizedReward`.
        args: a `PALGRPOConfig` or `PALRLOOConfig`.
        processing_class: the policy's tokenizer.
        train_dataset: rows with `prompt` and `annotator_id` (a `datasets.Dataset` or a list of dicts), and the column
            `args.log_rewards_by` if rewards are to be reported by it.
        eval_dataset: likewise, for TRL's `evaluate`.
        who: names for the people, needed with `policy_conditioning="prompt"`.
        peft_config: of the policy's adapter; None trains the whole policy.
        callbacks: as in TRL.
        judge: an independent judge, (completion, annotator_id) → utility, logged beside the reward to show reward
            hacking (`objective/gold`, `groups/<name>/gold`); it trains nothing.
        trl: whatever else TRL's trainer takes.

    Attributes:
        recorder: the reward function that TRL calls; `recorder.latest` has the last rows.
        guard: the `CollapseGuard`; `guard.stop_reason` says why training stopped early, if it did.

    Raises:
        ValueError: rows or arguments that cannot work; raised before anything is trained.
        RuntimeError: a reward is not finite.
    """

    algorithm: str
    may_train_parts = True

    def __init__(
        self,
        model: PreTrainedModel,
        reward: PersonalizedReward,
        args: GroupPolicyConfig,
        processing_class: PreTrainedTokenizerBase,
        train_dataset: Dataset | Sequence[dict[str, Any]],
        *,
        eval_dataset: Dataset | Sequence[dict[str, Any]] | None = None,
        who: WhoIsAsking | None = None,
        peft_config: PeftConfig | None = None,
        callbacks: list[TrainerCallback] | None = None,
        judge: Callable[[str, str], float] | None = None,
        **trl: Any,
    ) -> None:
        if args.policy_conditioning is not PolicyConditioning.PROMPT:
            who = None
        elif who is None:
            raise ValueError(
                "policy_conditioning='prompt' writes who is asking into the prompt, and no `who` was given. Pass "
                "WhoIsAsking.from_weights(ids, reward_model.weights_for(ids)), or set policy_conditioning='none'."
            )
        self._check_reference(model, args, peft_config)
        self._stops = agree_on_marks(processing_class, model)
        reward_tokenizer = getattr(reward.model, "tokenizer", None) or processing_class
        args.plain_prompts = reads_plain(processing_class, args.plain_prompts)
        prepare = {"log_rewards_by": args.log_rewards_by, "tokenizer": reward_tokenizer, "who": who}
        prepare |= {"plain_prompts": args.plain_prompts}
        prepare |= {"reward_reads_plain": getattr(reward.model, "plain_prompts", True)}
        self.train_rows = prepare_group_rows(train_dataset, name="train_dataset", **prepare)
        self.eval_rows = None
        if eval_dataset is not None:
            self.eval_rows = prepare_group_rows(eval_dataset, name="eval_dataset", **prepare)
        require_one_batch(len(self.train_rows.prompts), args)
        names = [*self.train_rows.group_names, *([] if self.eval_rows is None else self.eval_rows.group_names)]
        self.reward, self.who = reward, who
        self.recorder = RecordedReward(
            reward,
            group_names=dict.fromkeys(names),
            judge=judge,
            stop_ids=(*self._stops, processing_class.pad_token_id),
            missing_eos_penalty=args.missing_eos_penalty,
        )
        self.guard = CollapseGuard(args.max_kl, args.max_empty_fraction, args.stop_patience)
        if is_fsdp_launch() and peft_config is None and args.beta:
            # TRL would put the reference on all devices at once: it knows of MULTI_GPU and DeepSpeed only
            args.model_init_kwargs = {"device_map": None} | (args.model_init_kwargs or {})
        super().__init__(
            model=model,
            reward_funcs=self.recorder,
            args=args,
            train_dataset=self.train_rows.dataset,
            eval_dataset=None if self.eval_rows is None else self.eval_rows.dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            peft_config=peft_config,
            **trl,
        )
        divide_reference(self.accelerator, self.ref_model)
        self.recorder.accelerator = self.accelerator
        if isinstance(reward.model, nn.Module):  # TRL moves the reward models it made only
            reward.model.to(self.accelerator.device)
            if is_sharded(reward.model):  # all have to read it, and it is the main process that asks
                self._rewarded_by  # noqa: B018

    @staticmethod
    def _check_reference(model: PreTrainedModel, args: GroupPolicyConfig, peft_config: PeftConfig | None) -> None:
        name = getattr(model, "name_or_path", "")
        if args.beta and peft_config is None and not hasattr(model, "peft_config") and not name:
            raise ValueError(
                f"beta={args.beta} measures the KL from a reference, which TRL reads from the model's folder when the "
                "whole model is trained, and this one was made in the process. Train an adapter (--use_peft), set "
                "beta=0, or save the model and load it from its folder."
            )

    @property
    def history(self) -> list[dict[str, float]]:
        """What was logged in training, with `step`: averages since the line before. A resumed run has all of it.

        `n_updates` is of the run: updates on the completions of an earlier one have no line of their own.
        """
        entries = [entry for entry in self.state.log_history if "objective/reward" in entry]
        return [{**entry, "n_updates": self.state.global_step} for entry in entries]

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """TRL's training, after `fit_reward_scales`; ended early if the guard says so.

        Args:
            resume_from_checkpoint: True for the last complete checkpoint in `output_dir`, if any; or its folder. One
                that the guard had stopped is loaded, and trained no further.
            options: of transformers' `Trainer.train`.

        Raises:
            ValueError: the checkpoint is not complete, or of another run (`CompleteCheckpoints.train`).
        """
        judge = getattr(self.reward.model, "backbone", None)
        with nullcontext() if judge is None else forwards(judge.model):  # one engine for all of its answers
            return self._train(resume_from_checkpoint, **options)

    def _train(self, resume_from_checkpoint: str | bool | None, **options: Any) -> Any:
        point = self.agreed_resume_point(resume_from_checkpoint)
        if point is not None:
            load_watch(self.guard, self.reward.scales, Path(point), self.accelerator.device)
        if self.args.standardize_rewards and self.reward.standardize and not len(self.reward.scales):
            self.fit_reward_scales()
        generation = None if point is None else load_generation(Path(point), *self._place())
        if generation is not None:
            self._step, self._buffered_inputs = generation
        result = super().train(point, **options)
        if self.guard.stop_reason:
            went_back = self.guard.restore(self._trainable_parameters())
            end = "went back to the last weights within the limits" if went_back else "is as the last update left it"
            logger.warning(f"stopped after {self.state.global_step} updates; the policy {end}.")
        return result

    def is_finished(self) -> bool:
        """Also where the guard has stopped the run before."""
        return self.guard.stop_reason is not None or super().is_finished()

    def deciding(self) -> dict[str, Any]:
        """The reward."""
        return self._rewarded_by

    @cached_property
    def _rewarded_by(self) -> dict[str, Any]:
        return reward_record(self.reward)

    def _place(self) -> tuple[int, torch.device]:
        return self.accelerator.process_index, self.accelerator.device

    def save_beside(self, folder: Path) -> None:
        """With a checkpoint: guard, reward scales, and the completions that updates to come will use."""
        if self.args.should_save:
            save_watch(self.guard, self.reward.scales, folder)
        if self._buffered_inputs is not None:
            save_generation(folder, self._place()[0], self._step, self._buffered_inputs)

    def _get_train_sampler(self, dataset: Dataset | None = None) -> OrderByEpoch:
        return OrderByEpoch(super()._get_train_sampler(dataset), self.args.seed, self._epoch)

    def _epoch(self) -> int:
        return int((self.state.epoch or 0) + 1e-6)

    @torch.no_grad()
    def fit_reward_scales(self) -> None:
        """Fit every person's reward scale on completions of the reference policy, which the processes share out.

        Called before training, when the policy still is the reference.
        """
        args, rows = self.args, self.train_rows
        generator = torch.Generator().manual_seed(args.seed)
        picked = torch.randint(len(rows.prompts), (args.n_reference_completions,), generator=generator).tolist()
        with forwards(self.model):  # ZeRO-3 has no engine yet
            texts = self._draw(rows.dataset[picked]["prompt"])
        people = None
        if self.reward.weights is None:
            people = [*rows.annotator_ids, *([] if self.eval_rows is None else self.eval_rows.annotator_ids)]
        self.reward.fit_scales([rows.prompts[row] for row in picked], texts, people)

    def _draw(self, prompts: Sequence[Any]) -> list[str]:
        """One completion of the policy as it is for each prompt."""
        tokenizer, args = self.processing_class, self.args
        padded = tokenizer.pad({"input_ids": prompt_ids(prompts, tokenizer)}, padding_side="left", return_tensors="pt")
        was_training = self.model.training

        def draw(start: int) -> list[str]:
            part = {name: padded[name][start : start + args.per_device_train_batch_size] for name in padded}
            sequences = self.model.generate(
                input_ids=part["input_ids"].to(self.model.device),
                attention_mask=part["attention_mask"].to(self.model.device),
                max_new_tokens=args.max_completion_length,
                do_sample=True, temperature=args.temperature, **PLAIN_SAMPLING,
                eos_token_id=self._stops, pad_token_id=tokenizer.pad_token_id, synced_gpus=is_sharded(self.model),
            )  # fmt: skip
            bar.update(len(sequences))
            return tokenizer.batch_decode(sequences[:, part["input_ids"].shape[1] :], skip_special_tokens=True)

        self.model.eval()
        starts = range(0, len(prompts), args.per_device_train_batch_size)
        with tqdm(total=len(prompts), desc="reference answers", unit="text", disable=args.disable_tqdm) as bar:
            parts = drawn(starts, draw, seed=args.seed, model=self.model, together=True)
        self.model.train(was_training)
        return [text for part in parts for text in part]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log; in training also `objective/kl`, the guard's judgement, and the sample table."""
        if self.model.training:
            self._add_kl(self._metrics["train"])
        super().log(logs, start_time)
        entry = self.state.log_history[-1]
        if "objective/reward" not in entry:
            return
        self._watch(entry)
        n_rows = self.args.n_table_rows
        if n_rows and self.is_world_process_zero() and not self.args.disable_tqdm:
            rows = self.recorder.latest
            shown = rows[:: max(1, len(rows) // n_rows)][:n_rows]
            print(f"\nafter update {self.state.global_step}\n{sample_table(shown)}", flush=True)

    @staticmethod
    def _add_kl(metrics: dict[str, list[float]]) -> None:
        """`objective/kl` among what TRL is about to average and log, so that trackers get it, too."""
        if "objective/kl" in metrics or not metrics.get("kl") or not metrics.get("completions/mean_length"):
            return
        kl, length = ([v for v in metrics[n] if v == v] for n in ("kl", "completions/mean_length"))  # NaN: no value
        if kl and length:
            metrics["objective/kl"] = [sum(kl) / len(kl) * (sum(length) / len(length))]

    def _watch(self, entry: dict[str, float]) -> None:
        kl = entry.get("objective/kl", 0.0)
        warning = self.guard.watch(self.state.global_step, kl, entry["completions/empty_fraction"])
        if self.guard.stop_reason:
            self.control.should_training_stop = True
        if warning:
            logger.warning(warning)
        elif not (self.is_deepspeed_enabled or self.is_fsdp_enabled or self.trains_parts):
            self.guard.keep(self._trainable_parameters())

    def _trainable_parameters(self) -> dict[str, nn.Parameter]:
        policy = self.accelerator.unwrap_model(self.model)
        return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the policy (its adapter, with PEFT), the tokenizer and a model card, all whole or none.

        Raises:
            SavingError: nothing can be written; what was saved there before is as it was.
        """
        if _internal_call:  # of a checkpoint, which is marked complete when all of it is written
            super().save_model(output_dir, _internal_call)
            return
        folder = Path(output_dir or self.args.output_dir)
        last = (
            "adapter_config.json"
            if hasattr(self.accelerator.unwrap_model(self.model), "peft_config")
            else "config.json"
        )
        writing = whole_files(folder, last) if self.args.should_save else nullcontext(folder)
        with saving(folder, "The policy"), writing as beside:
            super().save_model(str(beside))
            if self.args.should_save:
                (beside / "training_args.bin").unlink(missing_ok=True)  # a pickle, with paths of this machine
                if (beside / "adapter_config.json").is_file():
                    write_base(beside, folder)
                self.write_card(beside)

    def write_card(self, folder: Path) -> None:
        """README.md, and conditioning.json, which says who is asked how."""
        what = (self.accelerator.unwrap_model(self.model), self.args, self.train_rows, self.history)
        write_policy_card(folder, *what, algorithm=self.algorithm.upper(), who=self.who)


class PALGRPOTrainer(PersonalGroupTrainer, GRPOTrainer):
    """TRL's `GRPOTrainer` on rows with a name on each of them; arguments as of `PersonalGroupTrainer`."""

    _tag_names = ["trl", "grpo", "palign"]
    algorithm = GroupAlgorithm.GRPO
    args: PALGRPOConfig


class PALRLOOTrainer(PersonalGroupTrainer, RLOOTrainer):
    """TRL's `RLOOTrainer` on rows with a name on each of them; arguments as of `PersonalGroupTrainer`."""

    _tag_names = ["trl", "rloo", "palign"]
    algorithm = GroupAlgorithm.RLOO
    args: PALRLOOConfig
