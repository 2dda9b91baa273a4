"""TRL's GRPO and RLOO on a base that is divided among processes, from loading on or in training alone.

What trains by TRL here stands on this: the policies of one's own (`pal_grpo_trainer.py`) and the routes of a fair
policy that answer by themselves (`palign/trainers/fair/rl.py`).
"""

from contextlib import nullcontext
from typing import Any

from torch import nn

from palign.parallel.deepspeed_launch import leave_accelerator
from palign.parallel.divided_loading import loading_like
from palign.parallel.divided_training import BesideDivided
from palign.parallel.fsdp import kept_whole
from palign.parallel.fsdp_launch import plan_fsdp
from palign.parallel.half_precision import plan_half_precision
from palign.parallel.sharded import divided_parameters
from palign.trainers.progress import show_named_progress

__all__ = ["DividedGroupTrainer"]


class DividedGroupTrainer(BesideDivided):
    """Put before TRL's `GRPOTrainer` or `RLOOTrainer` among the bases; nothing changes where weights are whole.

    Args:
        model: the policy.
        args: TRL's configuration.
        trl: whatever else TRL's trainer takes.

    Attributes:
        divided: parameters that are in parts from loading to the end.
    """

    def __init__(self, *, model: nn.Module, args: Any, **trl: Any) -> None:
        self.divided = divided_parameters(model)
        if self.divided:
            args.ds3_gather_for_generation = False  # else TRL would gather all of it to answer
        leave_accelerator()
        in_parts = self.would_train_parts(model, trl.get("peft_config"))
        with loading_like(model, args) if in_parts else nullcontext() as finish:
            super().__init__(model=model, args=args, **trl)
        if finish is not None and self.ref_model is not None:
            finish(self.ref_model)
        show_named_progress(self)
        self._complete_model()
        plan_fsdp(self.accelerator, self.model)
        plan_half_precision(self.accelerator, self.model)

    def _complete_model(self) -> None:
        """Put on the model what is trained with it, before anything wraps it."""

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        """TRL's; FSDP2's weights are put together once, and not at every token."""
        if self.args.use_vllm:
            return super()._generate_single_turn(*args, **kwargs)
        with kept_whole(self.model_wrapped):
            return super()._generate_single_turn(*args, **kwargs)
