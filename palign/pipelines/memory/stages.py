"""What each stage of a recipe holds at its peak, as if one process had all of the model: parts of memory by name."""

from collections.abc import Callable
from dataclasses import dataclass, field

from palign.models.policy_draws import LOGITS_AT_ONCE as DRAWN_AT_ONCE
from palign.models.states.prompt_tree import WORTH
from palign.models.states.scored import LOGITS_AT_ONCE
from palign.pipelines.memory.layers import Precision, Trained, kept, passing, turning
from palign.pipelines.memory.run import PlannedRun
from palign.pipelines.memory.shape import ModelShape
from palign.trainers.ppo.passes import LOGITS_AT_ONCE as POLICY_AT_ONCE
from palign.trainers.ppo.passes import TOKENS_AT_ONCE

__all__ = ["PARTS", "Held", "StageNeeds", "stages_of"]

PARTS = ("weights", "adapters", "gradients", "optimizer", "activations", "vocabulary", "cache", "buffers")
TRL_TILE, TRL_TOKENS = 32_768, 4_096  # of trl.kernels.chunked_logprob: columns and rows of its tile of logits
TRL_TEMPORARIES = 8  # float32 tensors of a tile in its backward pass where there is no Triton
REWARD_TEXTS = 64  # of PALRewardModel.score, in a pass


@dataclass
class Held:
    """What lies there in every stage, numbers of parameters and not bytes where it may be divided.

    Attributes:
        divisible: weights of the model that is trained or read, in numbers.
        aside: bytes of whole models beside it: a reward model, a reference, a critic's body.
        adapters: numbers in adapters.
        trained: numbers that are trained.
        trained_bytes: of one of them.
    """

    divisible: float
    aside: float = 0.0
    adapters: float = 0.0
    trained: float = 0.0
    trained_bytes: int = 4


@dataclass
class StageNeeds:
    """One stage.

    Attributes:
        name: of the stage.
        needs: bytes by part, of what comes and goes with the stage.
        trains: whether gradients are there.
        after_steps: whether the optimizer has its state by then.
    """

    name: str
    needs: dict[str, float] = field(default_factory=dict)
    trains: bool = False
    after_steps: bool = False


def stages_of(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    """What is held throughout, and the stages in their order."""
    return RECIPES[run.recipe](run, shape)


# parts of stages


def _batch(shape: ModelShape, run: PlannedRun, n_rows: int) -> tuple[int, int]:
    """Sequences of a batch of judgements and their length: trees of one prompt where they save enough."""
    prompt, answer, n = run.prompt_length, run.completion_length, run.n_items
    plain = n_rows * n, run.max_length
    if run.precision.compute < 4 or run.divides_weights:  # rounding, or a head in parts
        return plain
    in_tree = min(n, (prompt + 2 * answer) // answer)
    trees = n_rows * -(-n // in_tree), prompt + in_tree * answer
    return trees if trees[0] * trees[1] <= WORTH * plain[0] * plain[1] else plain


def _scored_head(run: PlannedRun, shape: ModelShape, n_tokens: int, states: float, *, trains: bool) -> dict[str, float]:
    """Log-probabilities by `palign.functional.logprobs.linear_head_logps`: logits of some states at a time."""
    at_once = max(16, LOGITS_AT_ONCE["cpu" if run.device == "cpu" else "other"] // shape.vocab)
    logits = min(n_tokens, at_once) * shape.vocab * 4
    rows = n_tokens * shape.hidden * run.precision.stream
    return {"vocabulary": 2.0 * logits + (2 * rows if trains else rows), "activations": states}


def _whole_head(shape: ModelShape, n_sequences: int, n_times: int, number: int, *, trains: bool) -> dict[str, float]:
    """Logits of all positions of completions: where a head is in parts, or all of them are compared."""
    logits = n_sequences * (n_times + 1) * shape.vocab
    return {"vocabulary": float(logits * (number + (2 * 4 + number - 4 if trains else 0)))}


def _training(
    run: PlannedRun, shape: ModelShape, n_sequences: int, length: int, *, times: int = 1, trained: Trained | None = None
) -> dict[str, float]:
    """Activations of one micro-batch, `times` of it kept at once; the widest place of the backward pass with it."""
    precision, trained, n = run.precision, trained or run.trained, n_sequences * length
    of_layer = kept(shape, precision, trained, n, length)
    last = turning(shape, precision, trained, n)
    ends = n * shape.hidden * (4 + precision.stream) + 2 * n * shape.head_dim * precision.stream
    ends += n * length * 2  # the mask, and what it is made from
    if not run.gradient_checkpointing:
        return {"activations": times * (shape.n_layers * of_layer + ends) + last}
    inputs = shape.n_layers * n * shape.hidden * precision.stream
    return {"activations": times * (inputs + ends) + of_layer + last}


def _pass(run: PlannedRun, shape: ModelShape, n_sequences: int, length: int, *, precision: Precision, lora: bool) -> float:
    """Activations of a pass without gradient."""
    n = n_sequences * length
    states = n * shape.hidden * 4 + n * length * 2
    return states + passing(shape, precision, n, length, has_lora=lora)


def _generation(run: PlannedRun, shape: ModelShape, n_sequences: int, *, lora: bool) -> dict[str, float]:
    """Keys and values of all answers at their full length, a layer's being copied; the prompts' pass; what is drawn."""
    precision = run.plain_precision
    length, c = run.prompt_length + run.max_new_tokens, precision.compute
    tokens = n_sequences * length
    cache = 2.0 * shape.n_layers * tokens * shape.key * c
    step = tokens * (shape.key + 2 * shape.query) * c
    first = passing(shape, precision, n_sequences * run.prompt_length, run.prompt_length, has_lora=lora)
    start = cache * run.prompt_length / length + first - cache  # what the prompts' pass has above the full cache
    return {"cache": cache, "activations": max(step, start, 0.0), "vocabulary": 4.0 * n_sequences * shape.vocab * 4}


def _merged(*parts: dict[str, float]) -> dict[str, float]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


# recipes


def _em_dpo(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    n_adapted = run.n_types * shape.adapter_parameters(run.lora_r, run.targets)
    held = Held(shape.n_parameters, adapters=n_adapted, trained=n_adapted)
    size, length, answer = run.eval_batch_size, run.max_length, run.completion_length
    n_scored, precision = size * answer, run.precision
    pooled = 2.0 * size * length * shape.hidden * 4
    reference = _pass(run, shape, size, length, precision=precision, lora=False)
    judged = _pass(run, shape, size, length, precision=precision, lora=True)
    rows = run.per_device_train_batch_size
    n_sequences, of_sequence = _batch(shape, run, rows)
    times = run.n_types if run.m_step == "weighted" else 1
    steps = _training(run, shape, n_sequences, of_sequence, times=times)

    def head(n: int, sequences: int, *, trains: bool) -> dict[str, float]:
        if run.divides_weights:
            return _whole_head(shape, sequences, answer, precision.compute, trains=trains)
        return _scored_head(run, shape, n, 0.0, trains=trains)

    return held, [
        StageNeeds("reference", _merged({"activations": max(reference, pooled)}, head(n_scored, size, trains=False))),
        StageNeeds(
            "training", _merged(steps, head(rows * run.n_items * answer, rows * run.n_items, trains=True)),
            trains=True, after_steps=True,
        ),
        StageNeeds("judging", _merged({"activations": judged}, head(n_scored, size, trains=False)), after_steps=True),
    ]  # fmt: skip


def _pal_reward(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    body = shape.body_parameters
    adapted = shape.adapter_parameters(run.lora_r, run.targets) if run.use_peft else 0
    held = Held(body, adapters=adapted, trained=adapted or body, trained_bytes=4 if adapted else run.precision.weight)
    size, length, n = run.eval_batch_size, run.max_length, run.per_device_train_batch_size * run.n_items
    read = _pass(run, shape, size, length, precision=run.plain_precision, lora=False)
    states = 2.0 * n * length * shape.hidden * 4
    return held, [
        StageNeeds("embedding", {"activations": read + size * length * shape.hidden * 4}),
        StageNeeds(
            "training", _merged(_training(run, shape, n, length), {"activations": states}), trains=True,
            after_steps=True,
        ),
    ]  # fmt: skip


def _policy_held(run: PlannedRun, shape: ModelShape) -> Held:
    weight, base = run.precision.weight, float(shape.n_parameters)
    aside = 4.0 * shape.body_parameters if run.reward_model else 0.0
    adapted = shape.adapter_parameters(run.lora_r, run.targets) if run.use_peft else 0
    held = Held(base, aside, adapted, adapted or base, 4 if adapted else weight)
    if not run.use_peft and (run.recipe == "ppo_pal" or run.beta):
        held.aside += base * weight  # the reference
    return held


def _ppo_pal(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    held = _policy_held(run, shape)
    if run.critic == "lora" and run.use_peft:
        n_critic = shape.adapter_parameters(run.critic_lora_r, run.targets)
        held.adapters += n_critic
        held.trained += n_critic
    elif run.critic.startswith(("full", "layers")):
        n_layers = shape.n_layers if run.critic == "full" else int(run.critic.partition(":")[2])
        ends = shape.body_parameters - shape.n_layers * shape.layer_parameters
        n_critic = ends + n_layers * shape.layer_parameters
        held.aside += n_critic * 4.0 * 4  # float32, gradient and AdamW's two moments
    rows, length = run.per_device_train_batch_size, run.max_length
    free = not (run.divides_weights or run.bf16)
    at_once = max(rows, TOKENS_AT_ONCE // length) if free else rows
    at_once = min(at_once, rows * run.steps_per_generation)
    times = 1 if free or run.critic != "lora" else 2
    n = rows * run.max_new_tokens
    some = max(1, POLICY_AT_ONCE // shape.vocab)
    part = 4.0 * min(n, some) * shape.vocab  # float32

    def head(n_rows: int, *, trains: bool) -> float:
        if not free:
            return _trl_head(run, shape, n_rows, trains=trains)
        return (4 if trains else 3) * min(part, 4.0 * n_rows * run.max_new_tokens * shape.vocab)

    read = _pass(run, shape, at_once, length, precision=run.precision, lora=run.use_peft)
    scoring = {"activations": read, "vocabulary": head(at_once, trains=False)}
    training = _training(run, shape, rows, length, times=times)
    stages = _policy_stages(run, shape, scoring, _merged(training, {"vocabulary": head(rows, trains=True)}))
    return held, stages


def _grpo_pal(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    rows, length = run.per_device_train_batch_size, run.max_length
    read = _pass(run, shape, rows, length, precision=run.precision, lora=run.use_peft)
    scoring = {"activations": read, "vocabulary": _trl_head(run, shape, rows, trains=False)}
    training = _merged(
        _training(run, shape, rows, length), {"vocabulary": _trl_head(run, shape, rows, trains=True)}
    )
    return _policy_held(run, shape), _policy_stages(run, shape, scoring, training)


def _trl_head(run: PlannedRun, shape: ModelShape, n_rows: int, *, trains: bool) -> float:
    """TRL's fused head: a tile of logits; without Triton tensors of float32 beside it, and every position scored."""
    on_cpu = run.device == "cpu"
    n = min(TRL_TOKENS, n_rows * (run.max_length - 1 if on_cpu else run.max_new_tokens))
    tile = float(n * TRL_TILE * run.precision.compute)
    if not on_cpu:
        return tile + min(TRL_TILE, shape.vocab) * shape.hidden * run.precision.compute
    return tile + (TRL_TEMPORARIES if trains else 3) * n * min(TRL_TILE, shape.vocab) * 4


def _policy_stages(
    run: PlannedRun, shape: ModelShape, scoring: dict[str, float], training: dict[str, float]
) -> list[StageNeeds]:
    rollout = run.per_device_train_batch_size * run.steps_per_generation
    stages = [
        StageNeeds("generation", _generation(run, shape, rollout, lora=run.use_peft), after_steps=True),
        StageNeeds("scoring", scoring, after_steps=True),
    ]
    if run.reward_model:
        n = min(rollout, REWARD_TEXTS)
        read = _pass(run, shape, n, run.max_length, precision=Precision(), lora=False)
        needs = {"activations": read + n * run.max_length * shape.hidden * 4}
        stages.append(StageNeeds("judging", needs, after_steps=True))
    return [*stages, StageNeeds("training", training, trains=True, after_steps=True)]


def _fair_policy(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    of_one = shape.adapter_parameters(run.lora_r, run.targets)
    held = Held(shape.n_parameters, adapters=(run.n_types + 1) * of_one, trained=of_one)
    size, answer, length = run.eval_batch_size, run.max_new_tokens, run.prompt_length + run.max_new_tokens
    size = max(1, min(size, DRAWN_AT_ONCE // shape.vocab // length))
    logits = float(size * answer * shape.vocab)
    number, precision = run.plain_precision.compute, run.plain_precision
    read = _pass(run, shape, size, length, precision=precision, lora=True)
    # logits of the reference, of the speaker and of a type; of their comparison four tensors in float32
    judged = {"activations": read, "vocabulary": logits * (3 * number + 4 * 4)}
    rows = run.per_device_train_batch_size * run.group_size
    steps = _training(run, shape, rows, length)
    if run.distill_targets == "soft":
        of_rows = float(rows * answer * shape.vocab)
        c = run.precision.compute
        vocabulary = {"vocabulary": of_rows * (run.n_types * c + 4 + c + 3 * 4)}
    else:
        vocabulary = _scored_head(run, shape, rows * answer, 0.0, trains=True)
    return held, [
        StageNeeds("generation", _generation(run, shape, run.eval_batch_size, lora=True)),
        StageNeeds("judging", judged),
        StageNeeds("training", _merged(steps, vocabulary), trains=True, after_steps=True),
    ]


def _evaluate_fairness(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    held = Held(shape.n_parameters, adapters=run.n_types * shape.adapter_parameters(run.lora_r, run.targets))
    size = run.eval_batch_size
    read = _pass(run, shape, size, run.max_length, precision=run.plain_precision, lora=True)
    head = _scored_head(run, shape, size * run.completion_length, 0.0, trains=False)
    return held, [StageNeeds("judging", _merged({"activations": read}, head))]


RECIPES: dict[str, Callable[[PlannedRun, ModelShape], tuple[Held, list[StageNeeds]]]] = {
    "em_dpo": _em_dpo, "pal_reward": _pal_reward, "ppo_pal": _ppo_pal, "grpo_pal": _grpo_pal,
    "fair_policy": _fair_policy, "evaluate_fairness": _evaluate_fairness,
}  # fmt: skip
