"""One policy per way of saying who is asking, trained and saved one after another from one language model."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from accelerate import PartialState
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from palign.conditioning import PolicyConditioning, WhoIsAsking
from palign.data.turns import as_turns, reads_plain
from palign.rewards import PersonalizedReward
from palign.trainers.policy.card import write_conditioning
from palign.trainers.policy.config import PersonalPolicyConfig
from palign.trainers.policy.rows import query_ids
from palign.trainers.prototype_adapters import adapter_name
from palign.writing import write_whole


@dataclass
class PolicyRun:
    """A trained policy.

    Attributes:
        conditioning: how it learns who is asking.
        policy: the language model with its adapter(s).
        history: metrics by update, column `adapter` with several adapters; also saved as `history.csv`.
    """

    conditioning: PolicyConditioning
    policy: PreTrainedModel
    history: pd.DataFrame


@dataclass
class PolicyRuns(ABC):
    """What every run shares; `PPORuns` and `GRPORuns` know how to train.

    Args:
        model: the language model to start from, which is also the reference.
        tokenizer: of `model`.
        reward: of the person each row belongs to.
        who: names for the people.
        train_rows, eval_rows: `prompt`, `annotator_id` and perhaps groups.
        args: of every run.
        peft_config: of every adapter; None trains the whole policy.
        judge: an independent judge, (completion, annotator_id) → utility; it trains nothing.
        reading: how the rows were read, a line each, for the report.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    reward: PersonalizedReward
    who: WhoIsAsking
    train_rows: Sequence[dict[str, Any]]
    eval_rows: Sequence[dict[str, Any]]
    args: PersonalPolicyConfig
    peft_config: PeftConfig | None = None
    judge: Callable[[str, str], float] | None = None
    reading: Sequence[str] = ()
    _latest: PreTrainedModel | None = None

    def train(self, conditioning: PolicyConditioning | str) -> PolicyRun:
        """Train one policy, save it under `output_dir/<conditioning>`; the policy of the run before is gone then.

        Raises:
            ValueError: `conditioning="adapter"` without `peft_config`.
        """
        conditioning = PolicyConditioning(conditioning)
        args = copy.copy(self.args)
        args.policy_conditioning, args.output_dir = conditioning, str(Path(self.args.output_dir) / conditioning.value)
        model = self._clean_model()
        if conditioning is PolicyConditioning.ADAPTER:
            run = self._train_adapters(model, args)
        else:
            run = self._train_one(model, args)
        if PartialState().is_main_process:
            if conditioning is PolicyConditioning.ADAPTER:  # each adapter's own folder knows nobody
                write_conditioning(Path(args.output_dir), args, self.who)
            write_whole(Path(args.output_dir) / "history.csv", run.history.to_csv(index=False))
        self._latest = run.policy
        return run

    def _clean_model(self) -> PreTrainedModel:
        """The language model as it was given: adapters are taken off again, a fully trained policy is a copy."""
        if self.peft_config is None:  # while the copy is trained, the reference takes no room on its device
            return copy.deepcopy(self.model.cpu())
        if isinstance(self._latest, PeftModel):
            self.model, self._latest = self._latest.unload(), None
            if hasattr(self.model, "peft_config"):
                del self.model.peft_config
        return self.model

    @abstractmethod
    def _train_one(self, model: PreTrainedModel, args: PersonalPolicyConfig) -> PolicyRun:
        """Train one policy for everybody, and save it in `args.output_dir`."""

    @abstractmethod
    def _train_adapters(self, model: PreTrainedModel, args: PersonalPolicyConfig) -> PolicyRun:
        """Train one adapter per prototype, and save each in a folder of its own in `args.output_dir`."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """Length at which completions are cut."""

    def sampling(self, run: PolicyRun | None) -> dict[str, Any]:
        """What `sample_rows` takes to draw one completion for each of `eval_rows`, of a policy or, without one, of the
        reference.
        """
        told = None if run is None else run.conditioning
        found = {"policy": self._placed_model() if run is None else run.policy, "tokenizer": self.tokenizer}
        found |= {"prompts": self.eval_prompts(told), "max_new_tokens": self.max_new_tokens}
        found |= {"temperature": self.args.temperature, "seed": self.args.seed, "together": True}
        if run is not None and self.peft_config is None:
            found["reference"] = self._placed_model()
        if told is PolicyConditioning.ADAPTER:
            found["adapters"] = self.eval_adapters()
        return found

    def _placed_model(self) -> PreTrainedModel:
        """The language model on the device policies are trained on; a quantized one was loaded there."""
        return self.model if getattr(self.model, "is_quantized", False) else self.model.to(self.args.device)

    def eval_prompts(self, conditioning: PolicyConditioning | str | None) -> list[list[int]]:
        """Token ids of `eval_rows`' prompts as a policy meets them; None for the reference, which is told nothing."""
        prompts = [row["prompt"] for row in self.eval_rows]
        if not reads_plain(self.tokenizer, self.args.plain_prompts):
            prompts = as_turns(prompts)
        if conditioning is not None and PolicyConditioning(conditioning) is PolicyConditioning.PROMPT:
            prompts = self.who.condition(prompts, [str(row["annotator_id"]) for row in self.eval_rows])
        return query_ids(prompts, self.tokenizer)

    def eval_adapters(self) -> list[str]:
        """The adapter that serves each of `eval_rows`: that of the person's dominant prototype."""
        return [adapter_name(self.who.types[str(row["annotator_id"])]) for row in self.eval_rows]
