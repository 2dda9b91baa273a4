"""PersonalizedReward: rewards worked by hand, scales, and what must fail."""

from typing import Any

import pytest
import torch

from palign.data.annotators import AnnotatorIndex
from palign.functional.reward_scales import RewardScale
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward
from tests.worlds.tiny_policy import tiny_policy


class WordReward:
    """Words of the completion times the person's number: a reward that can be worked by hand."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], list[str], list[str]]] = []

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str], weights: Any = None) -> Any:
        self.calls.append((prompts, completions, annotator_ids))
        if weights is not None:
            return torch.tensor(
                [len(text.split()) * w[1].item() for text, w in zip(completions, weights, strict=True)]
            )
        return torch.tensor([len(t.split()) * float(i) for t, i in zip(completions, annotator_ids, strict=True)])


def test_reward_function_as_trl_calls_it() -> None:
    reward = PersonalizedReward(WordReward())
    values = reward(
        prompts=["p", "q"], completions=["a b", "a b c"], annotator_id=[2, "10"], type=["x", "y"], other=[1, 2]
    )
    assert values == [4.0, 30.0]
    assert all(type(value) is float for value in values)
    assert reward.__name__ == "personalized_reward"


def test_reward_function_scores_the_prompt_without_who_is_asking() -> None:
    model = WordReward()
    PersonalizedReward(model)(["[reader: type 1] p"], ["a"], annotator_id=["1"], reward_prompt=["p"])
    assert model.calls[0][0] == ["p"]


class ChatReward(WordReward):
    """Its tokenizer writes `<u>…</><a>` before an answer and `</>` behind it."""

    class tokenizer:
        chat_template = "there is one"

        @staticmethod
        def apply_chat_template(messages: list[dict], add_generation_prompt: bool = False, **_: Any) -> str:
            turns = "".join(f"<{message['role'][0]}>{message['content']}</>" for message in messages)
            return turns + "<a>" * add_generation_prompt


def test_answers_of_a_conversation_end_as_the_reward_model_read_them() -> None:
    """Whatever form they come in: messages, and what a policy wrote behind a rendered prompt, without end marks."""
    reward = PersonalizedReward(model := ChatReward())
    asked, said = [{"role": "user", "content": "q"}], [{"role": "assistant", "content": "yes "}]
    reward.score(
        [asked, "<u>q</><a>", "plain", asked], [said, " yes", "yes", [said[0] | {"content": ""}]], list("1234")
    )
    assert model.calls[0][:2] == (["<u>q</><a>", "<u>q</><a>", "plain"], ["yes</>", "yes</>", "yes"])
    reward.fit_scales(["<u>q</><a>"] * 2, ["yes", "no"], ["1"])
    assert model.calls[1][1] == ["yes</>", "no</>"]


def test_reward_function_wants_people() -> None:
    with pytest.raises(ValueError, match="no `annotator_id`"):
        PersonalizedReward(WordReward())(["p"], ["a"])
    with pytest.raises(ValueError, match="2 prompts, 1 completions"):
        PersonalizedReward(WordReward()).score(["p", "q"], ["a"], ["1", "1"])


def test_fixed_weights_make_the_person_irrelevant() -> None:
    reward = PersonalizedReward(WordReward(), weights=[0.25, 0.75])
    assert reward(["p"], ["a b c d"], annotator_id=["9"]) == [3.0]
    assert reward(["p"], ["a b c d"]) == [3.0]


def test_standardization_by_hand() -> None:
    """Person 2 gives 2, 4, 6 to one, two, three words: mean 4, deviation 2. Person 10 gives 10, 20, 30: 20 and 10."""
    reward = PersonalizedReward(WordReward())
    reward.fit_scales(["p"] * 4, ["a", "a b", "a b c", "  "], ["2", "10", "2"])
    assert reward.scales.scales["2"] == RewardScale(4.0, 2.0)
    assert reward.scales.scales["10"] == RewardScale(20.0, 10.0)
    batch = reward.batch(["p"] * 3, ["a b c d", "a b c d", "a"], ["2", "10", "5"])
    assert batch.raw.tolist() == [8.0, 40.0, 5.0]
    # the stranger 5 is judged on the population's scale: mean (4 + 20) / 2, deviation (2 + 10) / 2
    assert batch.standardized.tolist() == pytest.approx([2.0, 2.0, (5 - 12) / 6])
    plain = PersonalizedReward(WordReward(), standardize=False)
    plain.fit_scales(["p"] * 2, ["a", "a b"], ["2"])
    assert plain.score(["p"], ["a b c d"], ["2"]).tolist() == [8.0]


def test_empty_completions_never_reach_the_reward_model() -> None:
    model = WordReward()
    reward = PersonalizedReward(model, empty_z=-3.0)
    reward.fit_scales(["p"] * 2, ["a", "a b c"], ["2"])  # mean 4, deviation 2·√2
    batch = reward.batch(["p", "p"], ["  ", "a"], ["2", "2"])
    assert batch.standardized[0].item() == pytest.approx(-3.0)
    assert batch.raw[0].item() == pytest.approx(4 - 3 * 2 * 2**0.5)
    assert model.calls[-1][1] == ["a"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rewards_that_are_not_finite_show_the_row(bad: float) -> None:
    class Broken:
        def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
            return torch.tensor([0.0, bad, 0.0])

    with pytest.raises(RuntimeError) as caught:
        PersonalizedReward(Broken()).score(["p0", "p1 " * 200, "p2"], ["c0", "c1", "c2"], ["ann", "bob", "cy"])
    message = str(caught.value)
    assert f"gave {bad} to row 1 of a batch of 3" in message
    assert "'bob'" in message and "p1 p1" in message and "'c1'" in message
    assert len(message) < 700 and "\n" not in message


def test_scales_of_everybody_from_one_pass_are_the_same() -> None:
    class OnePass(WordReward):
        def weights_for(self, people: list[str]) -> torch.Tensor:
            return torch.tensor([[float(person)] for person in people])

        def score_for_weights(self, prompts: list[str], completions: list[str], weights: Any) -> torch.Tensor:
            return torch.tensor([[float(len(text.split()))] for text in completions]) @ weights.T

    slow, fast = PersonalizedReward(WordReward()), PersonalizedReward(OnePass())
    for reward in (slow, fast):
        reward.fit_scales(["p"] * 4, ["a", "a b", "a b c d", ""], ["2", "10", "7"])
    assert fast.scales.scales == slow.scales.scales
    assert fast.model.calls == [] and len(slow.model.calls) == 3


def test_peoples_own_parts_count_in_their_scales_and_texts_are_read_once_or_twice() -> None:
    model, tokenizer = tiny_policy()
    people = ["2", "10", "7", "4"]
    pal = PALRewardModel.from_backbone(model, tokenizer=tokenizer, n_prototypes=2, annotators=AnnotatorIndex(people))
    pal.add_deviations(3, 1.0)
    generator = torch.Generator().manual_seed(0)
    pal.deviations.basis.copy_(torch.randn(pal.deviations.basis.shape, generator=generator))
    pal.deviations.own.weight.copy_(torch.randn(4, 3, generator=generator))
    texts = ["person 1", "open", "the garden is open"], ["quiet today", "the garden", "is open"]
    reward = PersonalizedReward(pal.eval())
    passes: list[int] = []
    spy = pal.backbone.model.register_forward_pre_hook(lambda *_: passes.append(1))
    reward.fit_scales(*texts, people)
    spy.remove()
    assert 1 <= len(passes) <= 2
    for person in people:
        with torch.no_grad():
            scores = pal.score(*texts, [person] * 3)
        assert reward.scales.scales[person].mean == pytest.approx(float(scores.mean()), abs=1e-5)
        assert reward.scales.scales[person].std == pytest.approx(float(scores.std()), rel=1e-4)
