"""Every key of game.json: the game between types, every policy as it was measured, and how it was made.

Plain dicts of plain values. Regrets are in units of reward (β · nats), values and KL in nats, weights sum to 1.
"""

from typing import NotRequired, TypedDict

__all__ = [
    "Ends",
    "GameRecord",
    "GameSettings",
    "GameTable",
    "GoldRecord",
    "JudgeRecord",
    "MatrixEnds",
    "PolicyRow",
    "RoomRecord",
    "RoundRecord",
    "RouteRecord",
    "VectorEnds",
    "VotesRecord",
]


class Ends(TypedDict):
    """A number and its interval, over prompts where nothing else is said."""

    value: float
    low: float
    high: float


class VectorEnds(TypedDict):
    """Numbers and the ends of their intervals, a list of each."""

    value: list[float]
    low: list[float]
    high: list[float]


class MatrixEnds(TypedDict):
    """A table of numbers and those of the ends of their intervals."""

    value: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


class GameTable(TypedDict):
    """The game on the training prompts; its policies are those of the types, in their order."""

    values: list[list[float]]  # (n_types, n_types) nats: what type i expects of type j's policy
    reference_values: list[float]  # (n_types,) nats, of the reference
    regrets: MatrixEnds  # (n_types, n_types)
    relative_regrets: list[list[float | None]]  # 0 own policy, 1 the reference; None without gain over it
    kl_regrets: list[list[float]]  # (n_types, n_types) β KL(π_j ‖ π_i)
    kl_to_reference: list[float]  # (n_types,) nats, of each type's policy
    policy_weights: VectorEnds  # (n_types,) how often each type's policy answers
    type_weights: list[float]  # (n_types,) dual: how much each type decides
    value: Ends  # worst regret of the ensemble
    gap: float  # of duality, 0 where the game is solved
    best_policy_bound: float  # worst regret of the best single policy


class VotesRecord(TypedDict):
    """Held-out votes under a policy's own reward, by the type of the voter; None where nobody of it voted."""

    accuracy: list[float | None]  # (n_types,) share of ordered pairs, in [0, 1]
    log_likelihood: list[float | None]  # (n_types,) nats a row
    worst_accuracy: float | None
    more_than_pooled: NotRequired[Ends | None]  # it less pooled DPO's, over people; None without pooled DPO


class GoldRecord(TypedDict):
    """What a judge independent of the types' rewards says, in units of its utility."""

    by_type: list[float]  # (n_types,)
    worst: float  # of the type served worst
    max_regret: float  # of the type that loses most against its own policy
    mean: NotRequired[float]  # over people: each type by its share
    chosen_more: NotRequired[Ends | None]  # `worst` of the chosen policy less that of this one; None without a choice


class RoomRecord(TypedDict):
    """How much of what types gain by policies of their own one policy can give all of them, see `room_of`."""

    policy: str  # the single policy that gives most
    single: float  # share that it gives the type it gives least; 0 is the reference, 1 every type's own policy
    lottery: float  # likewise, of the best lottery over the types' policies
    looks: str  # "shared", "opposed" or "unclear"
    optimum: NotRequired[float]  # most gold that one policy can give the type it serves worst, where it is known
    gold_single: NotRequired[float]  # share of the way from the reference to `optimum` that the chosen policy goes


class PolicyRow(TypedDict):
    """One policy on fresh prompts."""

    name: str
    kind: str  # "route", "type", "baseline" or "mixture"
    max_regret: Ends  # of the type that loses most, by its importance
    mean_regret: Ends  # over types, each counted once
    max_relative_regret: float | None  # 0 is a type's own policy, 1 the reference; None where one gains nothing
    regrets: list[float]  # (n_types,)
    worst_type: int  # number of the type that loses most
    kl: Ends  # nats to the reference
    is_within_budget: bool
    weights: list[float] | None  # (n_types,) of a mixture; None for one policy
    votes: VotesRecord | None
    less_than_pooled: Ends | None  # worst regret of pooled DPO less that of this one; None without pooled DPO
    gold: NotRequired[GoldRecord]  # where the recipe has such a judge


class JudgeRecord(TypedDict):
    """All policies under one judge; regrets against the type's own policy, in units of the judge."""

    judge: str  # "types", "pal" or "votes"
    unit: str
    values: dict[str, list[float]]  # (n_types,) by policy
    max_regret: dict[str, Ends]  # by policy; over prompts, or over people where the judge is "votes"
    worst_type: dict[str, int]  # by policy, number of the type that loses most
    policy_weights: list[float]  # (n_types,) of the game on these regrets
    best_route: str | None  # of the least worst regret within the KL budget
    n_people: NotRequired[list[int]]  # (n_types,) who voted: votes
    n_texts: NotRequired[dict[str, list[float]]]  # (n_types,) effective number of texts by policy: votes
    is_enough: NotRequired[bool]  # people and texts enough to choose by: votes


class RoundRecord(TypedDict):
    """One round of the route regress, or one batch of rl and maxmin."""

    weights: list[float]  # (n_types,) that it was fitted to
    max_regret: float  # on the game's prompts
    kl: float  # nats to the reference, on the same


class RouteRecord(TypedDict):
    """How a route was built; a route of a user's own has, beside `seconds`, what its function returns."""

    seconds: float
    cpu_seconds: NotRequired[float]  # of one process
    n_rows: NotRequired[int]  # that it was trained on: distill, dro, pooled
    type_weights: NotRequired[list[float]]  # (n_types,) at the end: dro
    merge_type: NotRequired[str]  # "svd" or "cat": merge
    rounds: NotRequired[list[RoundRecord]]  # regress, rl and maxmin
    starts_from: NotRequired[str]  # "soup" or "reference": rl, maxmin
    length: NotRequired[float]  # of the adapter, 1 as trained; less where its KL was beyond the budget: rl, maxmin
    kl_price: NotRequired[float]  # reward a nat at the end: rl, maxmin
    last_kl: NotRequired[float]  # nats, of the last tenth of the batches: rl, maxmin
    n_completions: NotRequired[int]  # that were drawn on one process: rl, maxmin


class GameSettings(TypedDict):
    """Options of FairPolicyConfig, which says what each is."""

    routes: list[str]
    n_prompts: int
    n_samples: int  # completions of a policy to a prompt
    n_eval_prompts: int
    n_eval_samples: int
    max_new_tokens: int
    draw_batch_size: int  # completions
    estimator: str
    type_importance: list[float] | None  # (n_types,)
    max_kl: float | None  # nats
    adapter_rank: int | None
    distill_targets: str
    group_size: int  # completions
    n_regress_rounds: int
    weight_step: float  # per worst regret of the round
    dro_step: float  # per nat of loss
    hedge_step: NotRequired[float]  # per worst regret of the reference; this and what follows: not in older files
    hedge_ahead: NotRequired[float]  # times
    rl_learning_rate: NotRequired[float | None]
    rl_reward: NotRequired[str]
    use_vllm: NotRequired[bool]
    vllm_mode: NotRequired[str]
    judges: NotRequired[list[str]]
    merge_type: str
    sure: float  # probability
    n_bootstrap: int
    learning_rate: float
    num_train_epochs: float
    per_device_train_batch_size: int
    seed: int


class GameRecord(TypedDict):
    """The whole file."""

    format: int
    types: list[str]  # (n_types,) names
    mixing_weights: list[float]  # (n_types,) shares of people
    beta: float  # reward per nat
    base_model: str | None
    game: GameTable
    table: list[PolicyRow]
    chosen: str | None  # name of the route that the adapter is of; None where no route was built
    kl_budget: float  # nats
    judges: NotRequired[dict[str, JudgeRecord]]  # by the judge's name; this and the next two: not in older files
    chosen_by: NotRequired[str]  # "votes" or "types"
    room: NotRequired[RoomRecord | None]  # None where a type gains nothing by its own policy
    plain_prompts: bool  # whether plain prompts are read bare, or as turns
    n_prompts: int  # that the game was solved on
    n_eval_prompts: int  # fresh ones
    settings: GameSettings
    routes: dict[str, RouteRecord]  # by name
    seconds: dict[str, float]  # of "estimate", "measure" and each route
    notes: list[str]
