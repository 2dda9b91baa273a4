"""The table under judges that are not the players: by hand, who chooses, and what is said."""

import numpy as np
import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.models.files.mixture import MixtureRecord
from palign.trainers.fair.judges import by_answers, by_votes, judge_notes
from palign.trainers.fair.measure import Candidate, Kind
from palign.trainers.fair.pal_judge import PALJudge
from palign.trainers.fair.vote_judge import LEAST_PEOPLE, LEAST_TEXTS, VoteShares
from tests.worlds.reward_models import text_model, vector_model

KINDS = {"type_0": Kind.TYPE, "type_1": Kind.TYPE, "rl": Kind.ROUTE, "distill": Kind.ROUTE, "half": Kind.MIXTURE}
CANDIDATES = [
    Candidate(
        name, kind, torch.zeros(3, 2), torch.zeros(3), torch.tensor([0.5, 0.5]).double() if name == "half" else None
    )
    for name, kind in KINDS.items()
]
ROWS = [{"name": n, "kind": k, "is_within_budget": True, "kl": {"value": 0.0}} for n, k in KINDS.items()]
TYPES = ["type_0", "type_1"]


def test_regrets_by_answers_by_hand() -> None:
    """Type 0 has 4 of its own policy and 0 of the other's, type 1 has 2 and 1; half of each: 2 and 1.5."""
    per_type = {"type_0": [4.0, 1], "type_1": [0.0, 2], "rl": [3.0, 1.5], "distill": [1.0, 2]}
    values = {name: torch.tensor([value] * 3).double() for name, value in per_type.items()}
    record = by_answers("pal", values, CANDIDATES, ROWS, TYPES, importance=None, n_draws=20, seed=0)
    worst = {name: ends["value"] for name, ends in record["max_regret"].items()}
    assert worst == pytest.approx({"type_0": 1, "type_1": 4, "rl": 1, "distill": 3, "half": 2})
    assert record["worst_type"]["distill"] == 0 and record["best_route"] == "rl"
    assert record["policy_weights"] == pytest.approx([0.8, 0.2])  # 4 w_1 = 1 w_0


def shares(value: list[float], n_texts: float = 100.0, n_people: int = 9) -> VoteShares:
    return VoteShares(np.array(value), np.array([value] * 5), np.full(2, n_texts), np.array([20, n_people]))


@pytest.mark.parametrize(
    ("n_texts", "n_people", "is_enough"),
    [(LEAST_TEXTS, LEAST_PEOPLE, True), (LEAST_TEXTS - 1, 9, False), (99, LEAST_PEOPLE - 1, False)],
)
def test_votes_choose_where_there_are_enough(n_texts: float, n_people: int, is_enough: bool) -> None:
    by_policy = {
        "type_0": [0.8, 0.5],
        "type_1": [0.4, 0.9],
        "rl": [0.6, 0.6],
        "distill": [0.7, 0.75],
        "half": [0.6, 0.7],
    }
    votes = {name: shares(value, n_texts, n_people) for name, value in by_policy.items()}
    record = by_votes(votes, CANDIDATES, ROWS, TYPES, importance=None)
    assert record["is_enough"] is is_enough
    assert record["best_route"] == "distill"  # .15 against .3
    types = record | {"judge": "types", "best_route": "rl"}
    notes = judge_notes({"types": types, "votes": record}, "distill", "votes")
    assert notes[0].startswith("Judges disagree on the route of the least worst regret: by types rl (0.300")
    assert [("Too few held-out votes" in note) for note in notes[1:]] == [True] * (not is_enough)


def test_nobody_of_a_type_voted() -> None:
    votes = {name: shares([0.5, np.nan], n_people=0) for name in KINDS}
    assert by_votes(votes, CANDIDATES, ROWS, TYPES, importance=None) is None


def record_of(people: AnnotatorIndex, responsibilities: list[list[float]]) -> MixtureRecord:
    gamma = np.array(responsibilities)
    return MixtureRecord(people, gamma, np.ones(len(gamma)), gamma.mean(0), 0.1, 64, None)


def test_a_types_pal_reward_is_of_its_mean_person() -> None:
    """Types of two people each: the reward of a type is that of the mean of their weights."""
    people = AnnotatorIndex(f"p{i}" for i in range(4))
    model = text_model(annotators=people)
    judge = PALJudge(model, record_of(people, [[1, 0], [1, 0], [0, 1], [0, 1]]))
    prompts, texts = ["tea", "tea", "rain"], ["red blue", "cat", "old"]
    weights = model.weights_for(people.ids).detach()
    for k in range(2):
        mean = weights[2 * k : 2 * k + 2].mean(0).expand(3, -1)
        expected = model.score(prompts, texts, None, weights=mean).detach()
        assert judge.scores(prompts, texts)[:, k].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    values = judge.values(["tea", "rain"], [["red", "blue"], ["old", "new"]])
    scores = judge.scores(["tea", "tea", "rain", "rain"], ["red", "blue", "old", "new"])
    assert torch.allclose(values, torch.stack([scores[:2].mean(0), scores[2:].mean(0)]))


def test_a_pal_model_that_cannot_judge() -> None:
    people = AnnotatorIndex(["p0", "p1"])
    record = record_of(people, [[1, 0], [0, 1]])
    with pytest.raises(ValueError, match="reads vectors, and policies write texts"):
        PALJudge(vector_model(annotators=people), record)
    with pytest.raises(ValueError, match="knows 1 of the mixture's 2 people, and none of type 1"):
        PALJudge(text_model(annotators=AnnotatorIndex(["p0", "x"])), record)
