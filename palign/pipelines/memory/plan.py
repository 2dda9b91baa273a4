"""The plan: what each process holds at the peak of each stage, under one launcher."""

from dataclasses import dataclass

from palign.pipelines.memory.run import PlannedRun
from palign.pipelines.memory.shape import GIB, ModelShape
from palign.pipelines.memory.stages import PARTS, Held, Needs, StageNeeds, stages_of

__all__ = ["MemoryPlan", "plan_memory"]

PREFETCHED = 50_000_000  # numbers in one of DeepSpeed's messages
READS_ADAPTERS = ("fair_policy", "evaluate_fairness")  # others make theirs later


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process.

    Attributes:
        run, shape: what was planned.
        stages: by name of the stage, bytes by part.
    """

    run: PlannedRun
    shape: ModelShape
    stages: dict[str, Needs]

    def total(self, stage: str) -> float:
        """All parts of a stage."""
        return sum(self.stages[stage].values())

    @property
    def peak_stage(self) -> str:
        """The stage that takes most."""
        return max(self.stages, key=self.total)

    @property
    def peak(self) -> float:
        """Bytes of that stage."""
        return self.total(self.peak_stage)

    def table(self) -> str:
        """Markdown, GiB: a row for each stage, a column for each part."""
        parts = [part for part in PARTS if any(held.get(part) for held in self.stages.values())]
        lines = [f"| stage, GiB | {' | '.join(parts)} | sum |", "|---" * (len(parts) + 2) + "|"]
        for name, held in self.stages.items():
            figures = " | ".join(_figure(held.get(part, 0.0)) for part in parts)
            mark = "**" if name == self.peak_stage else ""
            lines.append(f"| {name} | {figures} | {mark}{_figure(self.total(name))}{mark} |")
        return "\n".join(lines)


def _figure(n_bytes: float) -> str:
    gib = n_bytes / GIB
    return f"{gib:,.1f}" if gib >= 10 else f"{gib:.2f}" if gib >= 0.01 or not gib else f"{gib:.4f}"


def plan_memory(run: PlannedRun, shape: ModelShape) -> MemoryPlan:
    """What a run will hold; nothing is loaded."""
    held, needs = stages_of(run, shape)
    stages = {"loading": _loading(run, shape, held)}
    for stage in needs:
        stages[stage.name] = _stage(run, shape, held, stage)
    return MemoryPlan(run, shape, stages)


def _loading(run: PlannedRun, shape: ModelShape, held: Held) -> Needs:
    """The model as it is loaded; one tensor of a head that is not asked for, or of those that are divided."""
    weight = run.precision.weight
    share = run.num_processes if run.launcher == "zero3" or run.loads_parts else 1
    ends = shape.vocab * shape.hidden * weight
    is_body = run.recipe == "pal_reward" and not shape.is_tied
    # under FSDP2 each process reads its own slices of the files
    buffers = float(ends) if (is_body or run.launcher == "zero3") and not run.loads_parts else 0.0
    weights = (held.divisible + held.beside + _untied(run, shape)) * weight / share
    parts = {"weights": weights + held.aside, "buffers": buffers}
    if run.recipe in READS_ADAPTERS:
        parts["adapters"] = held.adapters * 4 / (1 if run.loads_parts else share)
    return {name: size for name, size in parts.items() if size}


def _untied(run: PlannedRun, shape: ModelShape) -> int:
    """Numbers of a head that has parts of its own where the files have it as the embeddings."""
    return shape.vocab * shape.hidden if run.loads_parts and shape.is_tied and run.recipe != "pal_reward" else 0


def _stage(run: PlannedRun, shape: ModelShape, held: Held, stage: StageNeeds) -> Needs:
    """What is held throughout as the launcher divides it, what it takes for itself, and the stage's own needs."""
    n, weight, trained = run.num_processes, run.precision.weight, held.trained * held.trained_bytes
    parts = dict.fromkeys(PARTS, 0.0) | stage.needs
    share = n if run.divides_weights else 1
    is_beside_parts = run.loads_parts and run.use_peft
    divides_training = run.launcher in ("zero2", "zero3", "fsdp2") and not is_beside_parts
    state_share = n if divides_training else 1
    trained += 4 * held.critic
    weights = (held.divisible + held.beside + _untied(run, shape)) * weight
    parts["weights"] += (weights + 4 * held.critic) / share + held.aside
    parts["adapters"] += held.adapters * 4 / (1 if run.loads_parts else share)
    if stage.trains:
        parts["gradients"] += trained / state_share
    if stage.after_steps:
        parts["optimizer"] += 2 * trained / state_share
        if run.launcher in ("zero2", "zero3"):  # its own copy in float32 of what is trained
            parts["optimizer"] += (held.trained + held.critic) * 4 / n
    parts["buffers"] += _of_launcher(run, shape, held, stage)
    return {name: size for name, size in parts.items() if size}


def _of_launcher(run: PlannedRun, shape: ModelShape, held: Held, stage: StageNeeds) -> float:
    """Bytes that the launcher takes for messages, and weights that it has put together."""
    weight, number = run.precision.weight, 2 if run.bf16 else held.trained_bytes
    if run.launcher == "multi_gpu":  # buckets as large as the gradients, from the first step on
        return held.trained * held.trained_bytes + 4 * held.critic if stage.after_steps else 0.0
    if run.launcher == "zero2":
        return float(run.reduce_bucket_size * number) if stage.trains else 0.0
    if run.launcher == "zero3":
        n_whole = min(held.divisible + held.adapters, run.max_live_parameters)
        whole = (n_whole + min(n_whole, PREFETCHED)) * weight  # each is copied out of the message that it came in
        return whole + (float(run.reduce_bucket_size * number) if stage.after_steps else 0.0)
    if run.loads_parts:
        # the unit that is run and its message; in a backward pass the next one's message, too
        layers, ends = (3 if stage.trains else 2) * shape.layer_parameters, 2 * shape.vocab * shape.hidden
        if not run.use_peft:  # embeddings and head stay together while layers run; a unit's gradients, to be averaged
            ends *= 1 if shape.is_tied else 2
            return (layers + ends) * weight + (max(shape.layer_parameters, ends / 2) * 4 if stage.trains else 0.0)
        whole = max(layers, ends) * weight
        return whole + (held.trained * held.trained_bytes if stage.after_steps else 0.0)  # gradients, to be averaged
    if run.launcher == "fsdp2":
        if stage.name == "generation":  # put together once, and not at every token
            return held.divisible * weight
        ends = held.divisible - shape.n_layers * shape.layer_parameters
        return (ends + 2 * shape.layer_parameters) * weight
    return 0.0
