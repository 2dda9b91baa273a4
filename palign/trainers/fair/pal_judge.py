"""What a PAL reward model says of answers, type by type: a judge that is none of the players."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palign.models.files.mixture import MixtureRecord
from palign.models.pal import PALRewardModel
from palign.models.reference_logps import base_fingerprint
from palign.rewards import PersonalizedReward

__all__ = ["PALJudge"]


class PALJudge:
    """Rewards of the types by a PAL model: a type is the mean of its people's weights over the prototypes.

    Args:
        model: a PAL reward model of texts.
        record: of the mixture, who is of which type.

    Raises:
        ValueError: the model reads vectors, or knows none of a type's people.
    """

    def __init__(self, model: PALRewardModel, record: MixtureRecord) -> None:
        if model.tokenizer is None:
            raise ValueError(
                "The PAL reward model reads vectors, and policies write texts; give one of a language model."
            )
        self.model = model
        known = set(model.annotators.ids)
        people = [person for person in record.annotators.ids if person in known]
        gamma = record.responsibilities[[person in known for person in record.annotators.ids]]
        share = gamma.sum(0) if len(people) else np.zeros(record.responsibilities.shape[1])
        if share.min() <= 0:
            raise ValueError(
                f"The PAL reward model knows {len(people)} of the mixture's {len(record.annotators)} people, and none "
                f"of type {int(share.argmin())}; give one that was trained on the same people."
            )
        weights = model.weights_for(people).detach().cpu().double().numpy()
        self.weights = torch.from_numpy(gamma.T @ weights / share[:, None]).float()
        self._rewards = [PersonalizedReward(model, weights=row, standardize=False) for row in self.weights]

    @cached_property
    def fingerprint(self) -> str:
        """A content key of model and types."""
        return f"{base_fingerprint(self.model)} {self.weights.tolist()}"

    def scores(self, prompts: Sequence[Any], completions: Sequence[Any]) -> Tensor:
        """(n, n_types) float64 rewards of `n` completions, texts or lists of one message."""
        return torch.stack([reward.batch(prompts, completions).raw.double().cpu() for reward in self._rewards], 1)

    def values(self, prompts: Sequence[Any], answers: Sequence[Sequence[str]]) -> Tensor:
        """(n_prompts, n_types) mean over the completions of each prompt."""
        n_each = [len(texts) for texts in answers]
        asked = [prompt for prompt, n in zip(prompts, n_each, strict=True) for _ in range(n)]
        scores = self.scores(asked, [text for texts in answers for text in texts])
        return torch.stack([part.mean(0) for part in scores.split(n_each)])
