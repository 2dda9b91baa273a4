"""What a run goes through, said as it goes: "2 of 5: choosing K"."""

import os
from collections.abc import Sequence

__all__ = ["STEPS", "Steps", "announcement"]

# sub-command → its steps; a recipe drops those that its options leave out, and adds a step for each further training
STEPS = {
    "reward": ("rows, and what people held out choose", "pooled: one reward for all", "pal: one for each", "report"),
    "ppo": ("language model, reward model and rows", "answers of the reference", "training", "report"),
    "grpo": ("language model, reward model and rows", "answers of the reference", "training", "report"),
    "em-dpo": ("language model and rows", "baselines", "em: types of people and their adapters", "samples", "report"),
    "fair": ("the mixture and the rows", "regrets, the game and every route", "report"),
    "metric": ("rows and their vectors", "the metric and what it is compared with", "report"),
    "population": ("rows and their vectors", "how many people stand where"),
    "ask": ("model and rows", "questions"),
    "evaluate": ("models and rows", "scoring", "report"),
}  # fmt: skip


def announcement(command: str) -> str:
    """The first line of a sub-command, before torch is imported."""
    steps = f", in steps: {'; '.join(STEPS[command])}" if command in STEPS else ""
    return f"palign {command}{steps}. First torch is loaded, and transformers if need be: some seconds."


class Steps:
    """Named steps of one run; the main process alone speaks.

    Args:
        names: in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names, self.number = list(names), 0

    def replace(self, number: int, names: Sequence[str]) -> None:
        """Put other steps, or none, in the place of one that is still to come, counted from 0."""
        self.names[number : number + 1] = names

    def next(self) -> None:
        """Say that the next one begins.

        Raises:
            IndexError: there is none.
        """
        name = self.names[self.number]
        self.number += 1
        if os.environ.get("RANK", "0") == "0":
            print(f"{self.number} of {len(self.names)}: {name}", flush=True)
