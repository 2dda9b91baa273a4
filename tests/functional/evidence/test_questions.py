"""Which question tells most: worked by hand, by brute force over all answers, and what is refused."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from palign.functional.evidence import questions
from palign.functional.evidence.questions import choose_questions, expected_information


def joint_information(yes: Tensor, posterior: Tensor, asked: list[int]) -> float:
    """Mutual information of all answers to `asked` and the member, nats, by every way the answers may come."""
    total = 0.0
    for answers in itertools.product([0, 1], repeat=len(asked)):
        p_members = torch.ones(len(posterior), dtype=torch.float64)
        for number, answer in zip(asked, answers, strict=True):
            p_members = p_members * (yes[number] if answer else 1 - yes[number])
        p = float((posterior * p_members).sum())
        for weight, member in zip(posterior.tolist(), p_members.tolist(), strict=True):
            if weight * member > 0:
                total += weight * member * math.log(member / p)
    return total


def test_what_an_answer_tells_by_hand() -> None:
    """Two members, alike likely. A question they answer for sure and differently tells log 2; one that both answer
    alike, or by a coin, tells nothing; at .75 and .25, log 2 − h(.25) = log 2 − (.25 log 4 + .75 log(4/3)).
    """
    yes = torch.tensor([[1.0, 0.0], [0.9, 0.9], [0.5, 0.5], [0.75, 0.25]])
    information = expected_information(yes, torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    quarter = math.log(2) - (0.25 * math.log(4) + 0.75 * math.log(4 / 3))
    assert information[0].tolist() == pytest.approx([math.log(2), 0, 0, quarter], abs=1e-12)
    assert information[1].tolist() == pytest.approx([0, 0, 0, 0], abs=1e-12)  # who is known has nothing to tell


def test_the_second_question_is_another_one() -> None:
    """Four members who differ in two traits. Two questions on the first trait, one on the second, a bit less sure:
    alone the two are best, together with the first the other one is.
    """
    yes = torch.tensor([[0.95, 0.95, 0.05, 0.05], [0.94, 0.94, 0.06, 0.06], [0.9, 0.1, 0.9, 0.1]])
    choice = choose_questions(yes, torch.full((1, 4), 0.25), 3, generator=torch.Generator())
    assert choice.indices.tolist() == [0, 2, 1]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gains_add_up_to_the_joint_information(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    yes = torch.rand(7, 5, generator=generator, dtype=torch.float64)
    posterior = torch.rand(5, generator=generator, dtype=torch.float64).softmax(0)
    choice = choose_questions(yes, posterior[None], 4, generator=generator)
    order = choice.indices.tolist()
    for n in range(1, 5):
        assert float(choice.information[:n].sum()) == pytest.approx(joint_information(yes, posterior, order[:n]))
    for n in range(3):  # each is the best next one
        gains = [joint_information(yes, posterior, [*order[:n], q]) for q in range(7) if q not in order[:n]]
        assert joint_information(yes, posterior, order[: n + 1]) == pytest.approx(max(gains))


def test_a_panel_is_the_mean_over_its_people() -> None:
    generator = torch.Generator().manual_seed(3)
    yes, posterior = torch.rand(6, 4, generator=generator), torch.rand(3, 4, generator=generator).softmax(1)
    choice = choose_questions(yes, posterior, 2, generator=generator)
    means = expected_information(yes, posterior).mean(0)
    assert int(choice.indices[0]) == int(means.argmax())
    assert float(choice.information[0]) == pytest.approx(float(means.max()), abs=1e-6)


def test_drawn_branches_are_near_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(4)
    yes, posterior = torch.rand(12, 6, generator=generator), torch.full((1, 6), 1 / 6)
    exact = choose_questions(yes, posterior, 8, generator=generator).information.sum()
    monkeypatch.setattr(questions, "MAX_BRANCHES", 64)
    drawn = choose_questions(yes, posterior, 8, generator=generator).information.sum()
    assert float(drawn) == pytest.approx(float(exact), rel=0.15)


def test_no_item_twice_while_there_are_others() -> None:
    """Question 1 is nearly as good as 0, and shares an item with it; 2 is worse and shares none."""
    yes = torch.tensor([[0.95, 0.95, 0.05, 0.05], [0.9, 0.1, 0.9, 0.1], [0.7, 0.3, 0.7, 0.3]])
    items = torch.tensor([[10, 11], [11, 12], [13, 14]])
    choice = choose_questions(yes, torch.full((1, 4), 0.25), 3, generator=torch.Generator(), items=items)
    assert choice.indices.tolist() == [0, 2, 1]


def test_sure_answers_stay_numbers() -> None:
    """Probabilities of exactly 0 and 1, and sums that rounding takes beyond 1."""
    yes = torch.tensor([[1.0] * 7, [1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0], [0.0] * 7])
    choice = choose_questions(yes, torch.full((1, 7), 1 / 7), 3, generator=torch.Generator())
    assert torch.isfinite(choice.information).all() and choice.indices[0] == 1


@pytest.mark.parametrize(
    ("yes", "posterior", "n", "message"),
    [
        (torch.ones(2, 3), torch.ones(1, 2) / 2, 1, "must be (n_questions, n_support) and (n_people, n_support)"),
        (torch.full((2, 2), 1.5), torch.ones(1, 2) / 2, 1, "outside [0, 1]"),
        (torch.full((2, 2), torch.nan), torch.ones(1, 2) / 2, 1, "outside [0, 1]"),
        (torch.ones(2, 2), torch.ones(1, 2), 1, "not on the simplex"),
        (torch.ones(2, 2), torch.ones(1, 2) / 2, 0, "ask for at least one question"),
    ],
)
def test_what_is_no_probability_is_refused(yes: Tensor, posterior: Tensor, n: int, message: str) -> None:
    with pytest.raises(ValueError) as error:
        choose_questions(yes, posterior, n, generator=torch.Generator())
    assert message in str(error.value)
