"""Rewards of many rows for many people at once: each different text is read once, whoever asks for it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from palign.models.pal import PALRewardModel
from palign.models.scoring_inputs import text_states

__all__ = ["PersonScorer", "ScoreRow"]


@dataclass(frozen=True)
class ScoreRow:
    """A prompt and a completion, texts or messages; for a person, or for `weights` over the prototypes."""

    prompt: Any
    completion: Any
    annotator_id: object = None
    weights: tuple[float, ...] | None = None


class PersonScorer:
    """A reward model on a backbone, asked by rows.

    Args:
        model: is put into evaluation mode.
        batch_size: texts in one pass.
    """

    def __init__(self, model: PALRewardModel, *, batch_size: int = 64) -> None:
        if model.backbone is None:
            raise ValueError(
                "This reward model takes ready vectors; a server of texts needs one on a backbone. Give a model that "
                "was trained on texts."
            )
        self.model, self.batch_size = model.eval(), batch_size
        self.n_texts = 0  # read so far

    @torch.no_grad()
    def __call__(self, rows: Sequence[ScoreRow]) -> list[float]:
        """Rewards (n,) of rows, those of `PALRewardModel.score`.

        Raises:
            ValueError: a row cannot be read.
            RuntimeError: a reward is not finite.
        """
        model = self.model
        keys = [json.dumps([row.prompt, row.completion], sort_keys=True) for row in rows]
        number_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        first = {key: row for key, row in zip(reversed(keys), reversed(rows), strict=True)}
        texts = sorted(number_of, key=len, reverse=True)  # of about equal length, so that little is padded
        states, prompt_states = [], []
        for start in range(0, len(texts), self.batch_size):
            part = [first[key] for key in texts[start : start + self.batch_size]]
            found = text_states(
                model.backbone, [row.prompt for row in part], [row.completion for row in part],
                with_prompts=model.needs_prompts, plain_prompts=model.plain_prompts,
            )  # fmt: skip
            states.append(found[0])
            prompt_states.append(found[1])
        self.n_texts += len(texts)
        place = {key: position for position, key in enumerate(texts)}
        wanted = torch.tensor([place[key] for key in keys], device=model.device)
        text = torch.cat(states)[wanted]
        prompts = torch.cat(prompt_states)[wanted] if model.needs_prompts else None
        rewards = model.head(text, self._weights(rows), prompts)
        if model.deviations is not None:
            rewards = rewards + model.deviations.rewards(text, self._deviations(rows))
        if not rewards.isfinite().all():
            raise RuntimeError(f"{int((~rewards.isfinite()).sum())} of {len(rows)} rewards are not finite.")
        return rewards.float().cpu().tolist()

    def knows(self, annotator_id: object) -> bool:
        """Whether a person has weights of their own here."""
        return bool(self.model.annotators.indices([annotator_id], unknown=-1)[0] >= 0)

    def _weights(self, rows: Sequence[ScoreRow]) -> torch.Tensor:
        weights = torch.empty(len(rows), self.model.n_prototypes, device=self.model.device)
        own = torch.tensor([row.weights is None for row in rows])
        if own.any():
            weights[own] = self.model.weights_for([row.annotator_id for row in rows if row.weights is None])
        if not own.all():
            given = [row.weights for row in rows if row.weights is not None]
            weights[~own] = torch.tensor(given, dtype=weights.dtype, device=weights.device)
        return weights

    def _deviations(self, rows: Sequence[ScoreRow]) -> torch.Tensor:
        deviations = torch.zeros(len(rows), self.model.config.personal_dim, device=self.model.device)
        own = torch.tensor([row.weights is None for row in rows])
        if own.any():
            deviations[own] = self.model.deviations_for([row.annotator_id for row in rows if row.weights is None])
        return deviations
