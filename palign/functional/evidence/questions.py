"""Which question should a person be asked next?

A person is somewhere on a population's support (`palign.functional.people_fit.posterior_weights`). A question is a
pair, and every member of the support answers it with a known probability. What an answer is expected to tell of the
person is the mutual information of answer and member, the difference of two entropies:

    I(q) = h(Σ_s p_s · yes_qs) − Σ_s p_s · h(yes_qs),    h(x) = −x log x − (1 − x) log(1 − x)

Source: Lindley, *On a Measure of the Information Provided by an Experiment* (1956); as a rule for choosing pairs,
Houlsby et al. (2011, arXiv 1112.5745). Several questions that are asked at once are chosen one after another, each by
what it adds to those before. The second entropy stays. The first is a mean over the answers that may come: exact while
there are at most `MAX_BRANCHES` ways, and over so many drawn ones after that. The sum is submodular, so this reaches
at least 1 − 1/e of what the best set of that size tells (Nemhauser et al., 1978).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["QuestionChoice", "choose_questions", "expected_information"]

MAX_BRANCHES = 256  # ways that answers may come, beyond which some are drawn
MAX_ENTRIES = 2**24  # of one table of branches and questions


@dataclass(frozen=True)
class QuestionChoice:
    """Questions in the order in which they were chosen.

    Attributes:
        indices: (n_chosen,) int64, rows of the table of questions.
        information: (n_chosen,) nats that each is expected to add to those before it, a mean over people.
    """

    indices: Tensor
    information: Tensor


def expected_information(yes: Tensor, posterior: Tensor) -> Tensor:
    """What the answer to each question is expected to tell of each person.

    Args:
        yes: (n_questions, n_support) probability that a member of the support prefers the first item.
        posterior: (n_people, n_support), rows on the simplex.

    Returns:
        (n_people, n_questions) nats, from 0 to log 2.

    Raises:
        ValueError: shapes that do not match, or entries that are no probabilities.
    """
    yes, posterior = _checked(yes, posterior)
    return (_entropy(posterior @ yes.T) - posterior @ _entropy(yes).T).clamp_min(0)


def choose_questions(
    yes: Tensor, posterior: Tensor, n_chosen: int, *, generator: torch.Generator, items: Tensor | None = None
) -> QuestionChoice:
    """The questions that together tell most, without repeats, for one person or the same ones for a panel.

    Args:
        yes: (n_questions, n_support) probability that a member of the support prefers the first item.
        posterior: (n_people, n_support), rows on the simplex: one row for one person.
        n_chosen: how many; fewer come back where there are fewer questions.
        generator: draws answers where there are more ways than `MAX_BRANCHES`, and people of a larger panel.
        items: (n_questions, 2) int64, the items of each question. An item is shown twice only where no question is
            left without one that was shown: what a text has of its own would be asked twice. None does not look.

    Returns:
        QuestionChoice.

    Raises:
        ValueError: fewer than one question is asked for, shapes that do not match, entries that are no probabilities.
    """
    if n_chosen < 1:
        raise ValueError(f"n_chosen is {n_chosen}; ask for at least one question.")
    yes, branches = _checked(yes, posterior)
    mass = branches.new_full((len(branches),), 1 / len(branches))
    noise = mass @ (branches @ _entropy(yes).T)  # of answers by one who is known exactly; no answer changes it
    is_left = torch.ones(len(yes), dtype=torch.bool, device=yes.device)
    is_fresh, indices, information = is_left.clone(), [], []
    for _ in range(min(n_chosen, len(yes))):
        branches, mass = _drawn(branches, mass, generator)
        allowed = is_left & is_fresh if bool((is_left & is_fresh).any()) else is_left
        gain = (_mean_entropy(branches, mass, yes) - noise).masked_fill(~allowed, -torch.inf)
        best = int(gain.argmax())
        indices.append(best)
        information.append(gain[best].clamp_min(0))
        is_left[best] = False
        if items is not None:
            is_fresh &= ~torch.isin(items, items[best]).any(1).to(is_fresh.device)
        branches, mass = _after_answer(branches, mass, yes[best])
    return QuestionChoice(torch.tensor(indices, dtype=torch.int64), torch.stack(information))


def _mean_entropy(branches: Tensor, mass: Tensor, yes: Tensor) -> Tensor:
    """(n_questions,) nats: Σ_b mass_b · h(probability of a yes in branch b)."""
    at_once = max(1, MAX_ENTRIES // len(branches))
    return torch.cat([mass @ _entropy(branches @ part.T) for part in yes.split(at_once)])


def _after_answer(branches: Tensor, mass: Tensor, yes: Tensor) -> tuple[Tensor, Tensor]:
    """Every branch twice: its posterior after a yes and after a no, and the mass of each."""
    joint = torch.cat([branches * yes, branches * (1 - yes)])
    total = joint.sum(1)
    mass = mass.repeat(2) * total
    is_possible = mass > 0
    return joint[is_possible] / total[is_possible, None], mass[is_possible]


def _drawn(branches: Tensor, mass: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most `MAX_BRANCHES` branches; where there are more, as many are drawn by their mass and count alike."""
    if len(branches) <= MAX_BRANCHES:
        return branches, mass
    rows = torch.multinomial(mass.cpu(), MAX_BRANCHES, replacement=True, generator=generator).to(branches.device)
    return branches[rows], mass.new_full((MAX_BRANCHES,), 1 / MAX_BRANCHES)


def _entropy(probability: Tensor) -> Tensor:
    """h of every entry, nats; an entry may lie beyond [0, 1] by rounding."""
    probability = probability.clamp(0, 1)
    return -torch.special.xlogy(probability, probability) - torch.special.xlogy(1 - probability, 1 - probability)


def _checked(yes: Tensor, posterior: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    yes, posterior = yes.detach().double(), posterior.detach().double()
    if yes.ndim != 2 or posterior.ndim != 2 or yes.shape[1] != posterior.shape[1] or 0 in yes.shape + posterior.shape:
        raise ValueError(
            f"yes has shape {tuple(yes.shape)} and posterior {tuple(posterior.shape)}; they must be (n_questions, "
            "n_support) and (n_people, n_support), neither of them empty."
        )
    if not bool(((yes >= 0) & (yes <= 1)).all()):
        raise ValueError("yes holds entries outside [0, 1]; it must hold probabilities.")
    if not bool((posterior >= 0).all()) or not bool(((posterior.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError("a row of posterior is not on the simplex: entries must be at least 0 and sum to 1.")
    return yes, posterior / posterior.sum(1, keepdim=True)
