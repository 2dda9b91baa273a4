"""On-policy min-max regret: the routes `rl` and `maxmin`, by TRL's GRPO.

One adapter is trained on its own answers, by the reward

    r(y) = Σ_i w_i β h_i(y) − λ log π_θ(y) / π_ref(y),    h_i = log π_i − log π_ref,

and two players move against it after every batch, on what the batch measured: the types' weights w by optimistic Hedge
on the regrets β (E_{π_i} h_i − E_{π_θ} h_i), and the price λ of KL, up while the policy is beyond the budget and down
while it is within it. That is descent and ascent on min over π of max over i of R_i(π), with KL(π ‖ π_ref) ≤ budget.

`maxmin` moves w by the least reward E_{π_θ} β h_i in place of the largest regret (MaxMin-RLHF, Chakraborty et al.
2024). With `rl_reward="pal"` the reward of type i is that of a PAL reward model in place of β h_i.

Training begins at the types' adapters added up in equal shares. The KL is in the reward, not in TRL's loss, so that
its weight against the reward is known: rewards are not divided by their standard deviation.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather
from datasets import Dataset
from torch import Tensor
from transformers import TrainingArguments
from trl import GRPOConfig, GRPOTrainer

from palign.functional.regret_hedge import OnlineHedge
from palign.models.adapters import route
from palign.models.architectures import agree_on_marks
from palign.models.completions import TokenizedItems, prompt_ids
from palign.models.single_adapter import AdapterPolicies, beyond_product, merge_adapters, train_only
from palign.models.type_scores import type_logps
from palign.parallel.deepspeed_launch import let_flags_size
from palign.parallel.sharded import make_whole
from palign.trainers.fair.measure import mixed_candidate
from palign.trainers.fair.route_trainer import OneAdapter
from palign.trainers.fair_policy_config import FairPolicyConfig, Route
from palign.trainers.grpo.divided import DividedGroupTrainer

if TYPE_CHECKING:
    from palign.trainers.fair.builder import RouteBuilder

__all__ = ["GameReward", "KLPrice", "maxmin", "rl"]

WITHIN = 0.85  # of the budget, that training aims at: what is measured on fresh prompts must be within it
AT_MOST = 0.93  # of the budget, measured on the game's prompts; an adapter beyond it is shortened
PRICE_STEP, PRICE_NOW = 0.05, 1.5  # of ln λ at each batch for good, and at once, per budget beyond the budget
FIRST, CHEAPEST = 0.25, 1e-3  # λ at first and at least, per worst regret of the reference over the budget
LEAST_BUDGET = 1e-3  # nats
SHORTER, MOST_CUTS = 0.97, 5  # than the budget, since the square is only nearly right; and how often
NOT_OF_A_ROUTE = {
    "output_dir", "max_steps", "num_train_epochs", "per_device_train_batch_size", "remove_unused_columns",
    "label_names", "eval_strategy", "run_name", "learning_rate",
}  # fmt: skip


def rl(builder: "RouteBuilder") -> dict[str, Any]:
    """GRPO on the weighted types, weights moved by measured regret."""
    with builder.rewarding():
        return _play(builder, Route.RL, is_regret=True)


def maxmin(builder: "RouteBuilder") -> dict[str, Any]:
    """GRPO on the weighted types, weights moved by the least reward."""
    with builder.rewarding():
        return _play(builder, Route.MAXMIN, is_regret=False)


@dataclass
class KLPrice:
    """λ of the KL to the reference, moved so that the budget is held: ln λ rises by what the KL is beyond it.

    It rises a little for good and more at once: with the first alone KL swings about the budget.

    Attributes:
        budget: nats.
        lasting: λ at the budget, in units of reward a nat.
        least: that does not fall below it.
        price: λ as it stands.
    """

    budget: float
    lasting: float
    least: float
    price: float = 0.0

    def __post_init__(self) -> None:
        self.price = self.lasting

    def see(self, kl: float) -> None:
        """After a batch whose completions are `kl` nats from the reference on average."""
        excess = min(max(kl / self.budget - 1, -1.0), 1.0)
        self.lasting = max(self.lasting * float(np.exp(PRICE_STEP * excess)), self.least)
        self.price = self.lasting * float(np.exp(PRICE_NOW * excess))


@dataclass(eq=False)
class GameReward:
    """The reward function that TRL calls with every batch, and the players that move after it.

    Attributes:
        builder: with the types and the adapter `name`.
        name: of the adapter that is trained.
        own_values: (n_prompts, n_types) reward of each type under its own policy.
        prompt_tokens: (n_prompts,) ids as the policies read them.
        hedge: of the types.
        price: of KL.
        is_regret: weights go by regret; else by the least reward.
        history: of every batch, `weights`, `max_regret` and `kl`.
    """

    builder: "RouteBuilder"
    name: str
    own_values: Tensor
    prompt_tokens: list[list[int]]
    hedge: OnlineHedge
    price: KLPrice
    is_regret: bool
    history: list[dict[str, Any]] = field(default_factory=list)
    __name__: str = "game"  # TRL names the metrics of a reward function after it

    @torch.no_grad()
    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Sequence[Sequence[int]],
        row: Sequence[int], **_: Any,
    ) -> list[float]:  # fmt: skip
        """One float per completion; `row` is the number of its prompt."""
        model, types = self.builder.model, self.builder.mixture.policies.names
        pairs = [(self.prompt_tokens[i], ids) for i, ids in zip(row, completion_ids, strict=True)]
        items = TokenizedItems.from_pairs(pairs, 0)
        names = [*types, None, self.name]
        logps = type_logps(AdapterPolicies(model, names), items, np.ones((len(items), len(names)), dtype=bool),
                           batch_size=self.builder.args.draw_batch_size)  # fmt: skip
        reference, kl = logps[:, [-2]], torch.from_numpy(logps[:, -1] - logps[:, -2])
        by_type = self.builder.type_rewards(list(row), completions, torch.from_numpy(logps[:, :-2] - reference))
        rewards = by_type @ self.hedge.weights - self.price.price * kl
        device = next(model.parameters()).device
        measured = torch.cat([self.own_values[list(row)] - by_type, by_type, kl[:, None]], -1).float().to(device)
        self._move(gather(measured).double().mean(0).cpu())
        return rewards.tolist()

    def _move(self, measured: Tensor) -> None:
        """Both players, by (2 n_types + 1,) regrets, rewards and KL of the batch."""
        n_types = len(self.hedge.weights)
        regrets, values, kl = measured[:n_types], measured[n_types:-1], float(measured[-1])
        regrets = regrets * self.builder.importance
        self.history.append({"weights": self.hedge.weights.tolist(), "max_regret": float(regrets.max()), "kl": kl})
        self.hedge.see(regrets if self.is_regret else -values)
        self.price.see(kl)


class GameTrainer(OneAdapter, DividedGroupTrainer, GRPOTrainer):
    """TRL's `GRPOTrainer` of the one adapter that plays, on a base that may be divided."""


def _play(builder: "RouteBuilder", name: str, *, is_regret: bool) -> dict[str, Any]:
    args = builder.args
    starts_from = _start(builder, name)
    own_values, reference_values = builder.reward_values()
    gap = float(((own_values - reference_values).mean(0) * builder.importance).max())
    if gap <= 0:
        raise ValueError(
            f"By the rewards that {name} trains on no type gains by its own policy over the reference, so that there "
            "is no regret to lessen; train the types longer, or take --rl_reward types."
        )
    budget = args.max_kl or float(mixed_candidate("ensemble", builder.type_draws, builder.weights).kl.mean())
    budget = max(budget, LEAST_BUDGET)  # an estimate, which near 0 may be negative
    aim = WITHIN * budget
    tokenizer = builder.mixture.tokenizer
    reward = GameReward(
        builder, name, own_values, prompt_ids(builder.prompts, tokenizer),
        OnlineHedge(builder.mixture.n_types, step_size=args.hedge_step / gap, ahead=args.hedge_ahead),
        KLPrice(aim, FIRST * gap / aim, CHEAPEST * gap / aim), is_regret,
    )  # fmt: skip
    train_only(builder.model, name)
    agree_on_marks(tokenizer, builder.model)
    config = _grpo_config(args, builder, name)
    with route(builder.model, name):
        trainer = GameTrainer(
            model=builder.model, reward_funcs=reward, args=config, train_dataset=_rows(builder, config),
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    make_whole(builder.model, trainer.model_wrapped, keep=trainer.divided)
    builder.clear(config.output_dir, name)
    length = _hold(builder, name, AT_MOST * budget)
    ends = reward.history[-max(1, len(reward.history) // 10) :]
    return {
        "starts_from": starts_from, "length": length,
        "rounds": [reward.history[i] for i in np.linspace(0, len(reward.history) - 1, 11).astype(int)],
        "type_weights": reward.hedge.average.tolist(), "kl_price": reward.price.price,
        "last_kl": float(np.mean([end["kl"] for end in ends])), "n_completions": len(reward.history) * _at_once(args),
    }  # fmt: skip


def _hold(builder: "RouteBuilder", name: str, budget: float) -> float:
    """Shorten the adapter until its KL on the game's prompts is within the budget; returns its length, 1 as trained.

    KL grows about as the square of the length.
    """
    length = 1.0
    for _ in range(MOST_CUTS):
        kl = float(builder.draw(name).kl.mean())
        if kl <= budget:
            break
        factor = (SHORTER * budget / kl) ** 0.5
        length *= factor
        with torch.no_grad():
            for key, parameter in builder.model.named_parameters():
                if re.search(rf"lora_(embedding_)?B\.{name}(\.|$)", key):
                    parameter.mul_(factor)
    return length


def _start(builder: "RouteBuilder", name: str) -> str:
    """The sum of the types' adapters in equal shares, from which less is to be learned than from the reference.

    The reference it is where a rank is asked for, or where adapters have no sum (DoRA).
    """
    types = builder.mixture.policies.names
    can_sum = not any(beyond_product(builder.model.peft_config[name]) for name in types)
    if builder.args.adapter_rank is not None or not can_sum:
        builder.add(name)
        return "reference"
    merge_adapters(builder.model, name, types, [1 / len(types)] * len(types), merge_type="svd")
    return "soup"


def _at_once(args: FairPolicyConfig) -> int:
    return args.per_device_train_batch_size * args.group_size


def _of_a_prompt(args: FairPolicyConfig) -> int:
    """Completions that share a baseline: twice `group_size` where the batch allows it, for the mean is an estimate."""
    return args.group_size * (2 if args.per_device_train_batch_size % 2 == 0 else 1)


def _grpo_config(args: FairPolicyConfig, builder: "RouteBuilder", name: str) -> GRPOConfig:
    """TRL's, by the options of the run: as many completions a step as the other routes read."""
    shared = {
        option.name: getattr(args, option.name)
        for option in fields(TrainingArguments)
        if option.init and option.name not in NOT_OF_A_ROUTE
    }
    config = GRPOConfig(
        **shared,
        output_dir=str(builder.output_dir / "routes" / f".training-{name}"),
        run_name=f"{args.run_name}-{name}" if args.run_name else None,
        max_steps=args.max_steps, num_train_epochs=args.num_train_epochs,
        learning_rate=args.rl_learning_rate or args.learning_rate / 2,
        per_device_train_batch_size=_at_once(args), num_generations=_of_a_prompt(args),
        max_completion_length=args.max_new_tokens, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0,
        beta=0.0, scale_rewards="none", loss_type="dr_grpo", use_vllm=args.use_vllm, vllm_mode=args.vllm_mode,
    )  # fmt: skip
    let_flags_size(config)
    return config


def _rows(builder: "RouteBuilder", config: GRPOConfig) -> Dataset:
    """Every prompt as often as an epoch answers it, about as many completions as the other routes read in one."""
    args, n_prompts = builder.args, len(builder.prompts)
    times = max(1, builder.mixture.n_types * args.n_samples // args.group_size)
    least = config.generation_batch_size // config.num_generations
    numbers = list(range(n_prompts)) * max(times, -(-least // n_prompts))
    return Dataset.from_dict({"prompt": [builder.prompts[i] for i in numbers], "row": numbers})
