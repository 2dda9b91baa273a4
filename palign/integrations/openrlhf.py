"""OpenRLHF's reward file: `--reward.remote_url …/palign/integrations/openrlhf.py`, the reward model by environment.

It loads the file by its path and calls `reward_func(queries, prompts, labels)` (openrlhf/utils/agent.py, OpenRLHF
0.11.2; 0.6 to 0.10 call it alike): a query is prompt and completion together, as the template and the policy have
written them. Each row's label is the person: an id, or JSON that holds `annotator_id`.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch

from palign.integrations.rows import loaded_reward, parts_of_query, person_of_label, score_rows

__all__ = ["MODEL_VARIABLE", "reward_func"]

MODEL_VARIABLE = "PALIGN_REWARD_MODEL"


def reward_func(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any], **_: Any) -> dict[str, Any]:
    """Rewards (n,) of queries (n,), each for the person of its label.

    Raises:
        ValueError: the environment names no reward model; a query without its prompt, or a label without a person.
    """
    path = os.environ.get(MODEL_VARIABLE)
    if not path:
        raise ValueError(f"Which reward model? Set {MODEL_VARIABLE} to its folder or hub name, in all processes.")
    reward = loaded_reward(path)
    parts = [parts_of_query(*pair, reward.model.tokenizer) for pair in zip(queries, prompts, strict=True)]
    people = [person_of_label(label) for label in labels]
    rewards = torch.tensor(score_rows(reward, [p for p, _ in parts], [c for _, c in parts], people))
    return {"rewards": rewards, "scores": rewards, "extra_logs": {"palign_reward": rewards}}
