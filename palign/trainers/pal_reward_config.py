"""Options of `PALRewardTrainer`."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from palign.parallel.deepspeed_launch import prepare_deepspeed
from palign.parallel.fsdp_launch import check_fsdp
from palign.parallel.launch_checks import check_launch
from palign.trainers.reward.options import HeadOptions

__all__ = ["PALRewardConfig"]


@dataclass
class PALRewardConfig(HeadOptions, TrainingArguments):
    """Training happens in two stages. The head and the people's weights are fitted over states of the frozen backbone,
    computed once (`HeadOptions`). If the backbone is trained as well (LoRA, or `train_backbone`), head, people
    and backbone then go on together under the ordinary options of `TrainingArguments`.
    """

    train_backbone: bool = field(default=False, metadata={"help": "Train every weight of the backbone, without LoRA."})
    push_personal_ids: bool = field(
        default=False,
        metadata={"help": "Let a model be pushed to a hub whose annotators' ids look like e-mail addresses."},
    )

    def __post_init__(self) -> None:
        check_fsdp(is_asked=bool(self.fsdp))
        prepare_deepspeed(is_asked=bool(self.deepspeed))
        check_launch(self)
        super().__post_init__()
        self.check_head_options()
