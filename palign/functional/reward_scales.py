"""Per-person standardization of rewards: people's scales differ, and a policy should not serve the loudest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class RewardScale:
    """Mean and standard deviation of the rewards one person gives to reference completions."""

    mean: float
    std: float


@dataclass
class RewardScales:
    """The scale of every person; the key None is the population's, used for strangers.

    Args:
        scales: person → scale.
    """

    scales: dict[str | None, RewardScale] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scales)

    def fit(self, rewards: Mapping[str | None, Tensor]) -> None:
        """Fit every person's scale.

        Args:
            rewards: person → `(n_reference,)` rewards of that person for the same two or more reference completions.
                Under the key None, or else as the mean over people, the population's scale.

        A person whose rewards do not vary gets the population's standard deviation, at least 1e-6.
        """
        fitted = {person: RewardScale(r.mean().item(), r.std().item()) for person, r in rewards.items()}
        n_people = max(1, len(fitted))
        mean = sum(scale.mean for scale in fitted.values()) / n_people
        std = max(sum(scale.std for scale in fitted.values()) / n_people, 1e-6)
        self.scales = {
            person: scale if scale.std > 1e-6 else RewardScale(scale.mean, std) for person, scale in fitted.items()
        }
        self.scales.setdefault(None, RewardScale(mean, std))

    def of(self, people: Sequence[str | None]) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of `people`, `(batch,)` each; 0 and 1 before anything was fitted."""
        stranger = self.scales.get(None, RewardScale(0.0, 1.0))
        scales = [self.scales.get(person, stranger) for person in people]
        return torch.tensor([scale.mean for scale in scales]), torch.tensor([scale.std for scale in scales])
