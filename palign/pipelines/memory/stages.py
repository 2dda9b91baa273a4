"""What each stage of a recipe holds at its peak, as if one process had all of the model: parts of memory by name."""

from collections.abc import Callable
from dataclasses import dataclass, field

from palign.models.policy_draws import LOGITS_AT_ONCE as DRAWN_AT_ONCE
from palign.models.states.prompt_tree import WORTH
from palign.models.states.scored import LOGITS_AT_ONCE
from palign.pipelines.memory.layers import Precision, kept, passing, turning
from palign.pipelines.memory.run import PlannedRun
from palign.pipelines.memory.shape import ModelShape
from palign.trainers.ppo.passes import LOGITS_AT_ONCE as POLICY_AT_ONCE
from palign.trainers.ppo.passes import TOKENS_AT_ONCE

Needs = dict[str, float]  # bytes by part

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
        aside: bytes of a reward model, whole and in float32.
        adapters: numbers in adapters.
        trained: numbers that are trained.
        trained_bytes: of one of them.
        beside: numbers of the models beside a policy that is trained whole: its reference, and, where it lies in
            parts from loading on, the policy as it was given. Elsewhere the latter lies in main memory.
        critic: numbers of a critic's own body, trained in float32.
    """

    divisible: float
    aside: float = 0.0
    adapters: float = 0.0
    trained: float = 0.0
    trained_bytes: int = 4
    beside: float = 0.0
    critic: float = 0.0


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
    needs: Needs = field(default_factory=dict)
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


def _scored_head(run: PlannedRun, shape: ModelShape, n_tokens: int, *, trains: bool) -> float:
    """Log-probabilities by `palign.functional.logprobs.linear_head_logps`: some logits at a time, states, targets'
    rows of the head and means."""
    at_once = LOGITS_AT_ONCE["cpu" if run.device == "cpu" else "other"]
    logits = 4.0 * min(n_tokens * shape.vocab, at_once)
    rows = n_tokens * shape.hidden * run.precision.stream
    return 2 * logits + (3 * rows if trains else 2 * rows)


def _whole_head(shape: ModelShape, n_sequences: int, n_times: int, number: int, *, trains: bool) -> float:
    """Logits of all positions of completions, where a head is in parts; their gradients, and those of the slice."""
    logits = float(n_sequences * (n_times + 1) * shape.vocab)
    return logits * (3 * number if trains else number) + n_times * shape.vocab * 8.0


def _head(run: PlannedRun, shape: ModelShape, n_sequences: int, *, trains: bool) -> float:
    """Log-probabilities of that many completions."""
    n_times = run.completion_length
    if run.divides_weights:
        return _whole_head(shape, n_sequences, n_times, run.precision.compute, trains=trains)
    return _scored_head(run, shape, n_sequences * n_times, trains=trains)


def _trained(
    run: PlannedRun,
    shape: ModelShape,
    n_sequences: int,
    length: int,
    head: float,
    *,
    times: int = 1,
    rest: float = 0.0,
) -> Needs:
    """One micro-batch at its fullest: all layers kept, and either the head at work or the last layer turning back.

    Args:
        head: bytes at the head, between the passes.
        times: how often a batch is kept at once.
        rest: bytes of the head that stay while layers turn back.
    """
    precision, trained, n = run.precision, run.trained, n_sequences * length
    of_layer = kept(shape, precision, trained, n, length)
    turn = turning(shape, precision, trained, n)
    ends = n * shape.hidden * (4 + precision.stream) + 2 * n * shape.head_dim * precision.stream
    ends += n * length * 2  # the mask, and what it is made from
    if run.gradient_checkpointing:
        inputs = shape.n_layers * n * shape.hidden * precision.stream
        return _fullest({"activations": times * (inputs + ends)}, {"vocabulary": head},
                        {"activations": of_layer + turn, "vocabulary": rest})  # fmt: skip
    held = {"activations": times * (shape.n_layers * of_layer + ends)}
    return _fullest(held, {"vocabulary": head}, {"activations": turn, "vocabulary": rest})


def _read(
    run: PlannedRun, shape: ModelShape, n_sequences: int, length: int, head: float, *, precision: Precision, lora: bool
) -> Needs:
    """A pass without gradient at its fullest: in a layer, or at the head."""
    n = n_sequences * length
    held = {"activations": n * shape.hidden * 4.0 + n * length * 2}
    layer = {"activations": passing(shape, precision, n, length, has_lora=lora)}
    return _fullest(held, layer, {"vocabulary": head})


def _generation(run: PlannedRun, shape: ModelShape, n_sequences: int, *, lora: bool) -> Needs:
    """Keys and values of all answers at their full length, a layer's being copied; the prompts' pass; the draw."""
    precision = run.plain_precision
    length, c = run.prompt_length + run.max_new_tokens, precision.compute
    tokens = n_sequences * length
    cache = 2.0 * shape.n_layers * tokens * shape.key * c
    step = tokens * (shape.key + 2 * shape.query) * c
    first = passing(shape, precision, n_sequences * run.prompt_length, run.prompt_length, has_lora=lora)
    start = cache * run.prompt_length / length + first - cache  # what the prompts' pass has above the full cache
    return {"cache": cache, "activations": max(step, start, 0.0), "vocabulary": 4.0 * n_sequences * shape.vocab * 4}


def _fullest(held: Needs, *moments: Needs) -> Needs:
    """What is held, and the moment beside it that takes most."""
    most = max(moments, key=lambda moment: sum(moment.values()))
    return {name: held.get(name, 0.0) + most.get(name, 0.0) for name in dict.fromkeys([*held, *most])}


# recipes


def _em_dpo(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    n_adapted = run.n_types * shape.adapter_parameters(run.lora_r, run.targets)
    held = Held(shape.n_parameters, adapters=n_adapted, trained=n_adapted)
    size, length, rows = run.eval_batch_size, run.max_length, run.per_device_train_batch_size
    # the base is not frozen yet when it is the reference, and a head that may be trained is not read in parts
    whole = _whole_head(shape, size, run.completion_length, run.precision.compute, trains=False)
    times = run.n_types if run.m_step == "weighted" else 1
    n_heads = 1 if run.m_step == "weighted" or run.divides_weights else run.n_types  # types take their rows in turn
    head = _head(run, shape, -(-rows * run.n_items // n_heads), trains=True)
    read = _head(run, shape, size, trains=False)
    judged = _read(run, shape, size, length, read, precision=run.precision, lora=True)
    return held, [
        StageNeeds("reference", _read(run, shape, size, length, whole, precision=run.precision, lora=False)),
        StageNeeds(
            "training",
            _trained(run, shape, *_batch(shape, run, rows), head, times=times),
            trains=True,
            after_steps=True,
        ),
        StageNeeds("judging", judged, after_steps=True),
    ]


def _pal_reward(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    body = shape.body_parameters
    adapted = shape.adapter_parameters(run.lora_r, run.targets) if run.use_peft else 0
    held = Held(body, adapters=adapted, trained=adapted or body, trained_bytes=4 if adapted else run.precision.weight)
    size, length, n = run.eval_batch_size, run.max_length, run.per_device_train_batch_size * run.n_items
    pooled = 4.0 * length * shape.hidden  # of a text
    read = _read(run, shape, size, length, 2 * size * pooled, precision=run.plain_precision, lora=run.use_peft)
    return held, [
        StageNeeds("embedding", read, after_steps=True),  # also of the trained backbone
        StageNeeds("training", _trained(run, shape, n, length, 2 * n * pooled), trains=True, after_steps=True),
    ]


def _policy_held(run: PlannedRun, shape: ModelShape) -> Held:
    weight, base = run.precision.weight, float(shape.n_parameters)
    aside = 4.0 * shape.body_parameters if run.reward_model else 0.0
    adapted = shape.adapter_parameters(run.lora_r, run.targets) if run.use_peft else 0
    held = Held(base, aside, adapted, adapted or base, 4 if adapted else weight)
    if not run.use_peft and (run.recipe == "ppo_pal" or run.beta):
        held.beside += base
    if not run.use_peft and (run.launcher == "zero3" or run.loads_parts):
        held.beside += base
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
        held.critic = ends + n_layers * shape.layer_parameters
    rows, length, free = run.per_device_train_batch_size, run.max_length, not (run.divides_weights or run.bf16)
    at_once = max(rows, TOKENS_AT_ONCE // length) if free else rows
    at_once = min(at_once, rows * run.steps_per_generation)
    times = 1 if free or run.critic == "head" else 2  # policy and critic

    def head(n_rows: int, *, trains: bool) -> float:
        if not free:
            return _trl_head(run, shape, n_rows, trains=trains)
        n = min(n_rows * run.max_new_tokens, max(1, POLICY_AT_ONCE // shape.vocab))
        return (4.0 if trains else 3.0) * 4 * n * shape.vocab

    scoring = _read(
        run, shape, at_once, length, head(at_once, trains=False), precision=run.precision, lora=run.use_peft
    )
    training = _trained(run, shape, rows, length, head(rows, trains=True), times=times)
    return held, _policy_stages(run, shape, scoring, training)


def _grpo_pal(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    rows, length = run.per_device_train_batch_size, run.max_length
    head = _trl_head(run, shape, rows, trains=False)
    scoring = _read(run, shape, rows, length, head, precision=run.precision, lora=run.use_peft)
    training = _trained(run, shape, rows, length, _trl_head(run, shape, rows, trains=True))
    return _policy_held(run, shape), _policy_stages(run, shape, scoring, training)


def _trl_head(run: PlannedRun, shape: ModelShape, n_rows: int, *, trains: bool) -> float:
    """TRL's fused head: a tile of logits; without Triton tensors of float32 beside it, and every position scored."""
    on_cpu = run.device == "cpu"
    n = min(TRL_TOKENS, n_rows * (run.max_length - 1 if on_cpu else run.max_new_tokens))
    tile = float(n * TRL_TILE * run.precision.compute)
    if not on_cpu:
        return tile + min(TRL_TILE, shape.vocab) * shape.hidden * run.precision.compute
    return tile + (TRL_TEMPORARIES if trains else 3) * n * min(TRL_TILE, shape.vocab) * 4


def _policy_stages(run: PlannedRun, shape: ModelShape, scoring: Needs, training: Needs) -> list[StageNeeds]:
    rollout = run.per_device_train_batch_size * run.steps_per_generation
    stages = [
        StageNeeds("generation", _generation(run, shape, rollout, lora=run.use_peft), after_steps=True),
        StageNeeds("scoring", scoring, after_steps=True),
    ]
    if run.reward_model:
        n, length = min(rollout, REWARD_TEXTS), run.max_length
        pooled = 4.0 * n * length * shape.hidden
        needs = _read(run, shape, n, length, pooled, precision=Precision(), lora=False)
        stages.append(StageNeeds("judging", needs, after_steps=True))
    return [*stages, StageNeeds("training", training, trains=True, after_steps=True)]


def _fair_policy(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    of_one = shape.adapter_parameters(run.lora_r, run.targets)
    held = Held(shape.n_parameters, adapters=(run.n_types + 1) * of_one, trained=of_one)
    answer, length, number = run.max_new_tokens, run.prompt_length + run.max_new_tokens, run.plain_precision.compute
    size = max(1, min(run.eval_batch_size, DRAWN_AT_ONCE // shape.vocab // length))
    logits = float(size * answer * shape.vocab)
    # logits of reference, speaker and a type, and the comparison's four tensors in float32
    judged = _read(run, shape, size, length, logits * 4 * 4, precision=run.plain_precision, lora=True)
    judged["vocabulary"] = judged.get("vocabulary", 0.0) + 3 * logits * number
    rows, c = run.per_device_train_batch_size * run.group_size, run.precision.compute
    if run.distill_targets == "soft":
        of_rows = float(rows * answer * shape.vocab)
        # teachers' logits, targets, the student's; their logarithm, product and gradients
        head, rest = of_rows * (run.n_types * c + 4 + c + 3 * 4), of_rows * (run.n_types * c + 4)
    else:
        head, rest = _scored_head(run, shape, rows * answer, trains=True), 0.0
    return held, [
        StageNeeds("generation", _generation(run, shape, run.eval_batch_size, lora=True)),
        StageNeeds("judging", judged),
        StageNeeds("training", _trained(run, shape, rows, length, head, rest=rest), trains=True, after_steps=True),
    ]


def _evaluate_fairness(run: PlannedRun, shape: ModelShape) -> tuple[Held, list[StageNeeds]]:
    held = Held(shape.n_parameters, adapters=run.n_types * shape.adapter_parameters(run.lora_r, run.targets))
    size = run.eval_batch_size
    head = _scored_head(run, shape, size * run.completion_length, trains=False)
    read = _read(run, shape, size, run.max_length, head, precision=run.plain_precision, lora=True)
    return held, [StageNeeds("judging", read)]


RECIPES: dict[str, Callable[[PlannedRun, ModelShape], tuple[Held, list[StageNeeds]]]] = {
    "em_dpo": _em_dpo, "pal_reward": _pal_reward, "ppo_pal": _ppo_pal, "grpo_pal": _grpo_pal,
    "fair_policy": _fair_policy, "evaluate_fairness": _evaluate_fairness,
}  # fmt: skip
