"""PersonalizedReward and its sockets: rewards worked by hand, the PPO contract, and pairings that must fail."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from ppo_helpers import IdReward, SeenRow, SpyReward, named_rows, tiny_policy, wrong_pairings
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from palign.data.binding import BindingLoader, BoundRows
from palign.functional.reward_scales import RewardScale
from palign.models.tiny import make_tiny_lm, make_tiny_tokenizer
from palign.rewards import PersonalizedReward, PPORewardSocket

get_reward = pytest.importorskip("trl.experimental.utils").get_reward
TEXTS = [row["prompt"] for row in named_rows()] + ["the garden is open."] * 3


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


def encode(tokenizer: Any, rows: list[dict[str, str]], answers: list[str], n_pad: int = 3) -> tuple[Any, Any, int]:
    """Prompt tokens padded on the left, then answers with eos, padded on the right, as TRL hands them over."""
    queries = tokenizer([row["prompt"] for row in rows], add_special_tokens=False)["input_ids"]
    context = max(map(len, queries)) + n_pad
    replies = [tokenizer(a, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] for a in answers]
    width, pad = max(map(len, replies)) + 1, tokenizer.pad_token_id
    ids = [
        [pad] * (context - len(q)) + q + r + [pad] * (width - len(r)) for q, r in zip(queries, replies, strict=True)
    ]
    bound = BoundRows(queries, context, [row["prompt"] for row in rows], [row["annotator_id"] for row in rows])
    return torch.tensor(ids), bound, context


def test_ppo_contract_in_chunks_with_an_eval_pass_between() -> None:
    """TRL's own `get_reward`, in chunks of 3, 3, 2; then an eval pass; then the next training batch."""
    tokenizer = make_tiny_tokenizer(TEXTS)
    socket = SpyReward(IdReward()).for_ppo(tokenizer)
    rows, pad = named_rows(), tokenizer.pad_token_id
    for batch in (rows[3:11], rows[30:34], rows[11:19]):
        ids, bound, context = encode(tokenizer, batch, ["the garden is open." for _ in batch])
        socket.bind(bound)
        for chunk in ids.split(3):
            logits, final, _ = get_reward(socket, chunk, pad, context)
            assert logits.shape == (len(chunk), ids.shape[1], 1)
            assert final.shape == (len(chunk),)
    socket.check_all_consumed()
    assert [row.reward for row in socket.seen] == [*range(3, 11), *range(30, 34), *range(11, 19)]
    assert wrong_pairings(socket.seen) == 0
    assert socket.n_bound == socket.n_consumed == 20
    assert {row.completion for row in socket.drain()} == {"the garden is open."}
    assert socket.drain() == []


def test_rewards_out_of_step_raise() -> None:
    tokenizer = make_tiny_tokenizer(TEXTS)
    ids, bound, context = encode(tokenizer, named_rows(6), ["a"] * 6)
    pad = tokenizer.pad_token_id
    with pytest.raises(RuntimeError, match="0 of the rows bound"):
        get_reward(PersonalizedReward(IdReward()).for_ppo(tokenizer), ids, pad, context)
    socket = PersonalizedReward(IdReward()).for_ppo(tokenizer)
    socket.bind(bound)
    get_reward(socket, ids[:4], pad, context)
    with pytest.raises(RuntimeError, match="4 of the 6 rows bound"):
        socket.bind(bound)
    with pytest.raises(RuntimeError, match="3 rows are to be scored but 2"):
        get_reward(socket, ids[:3], pad, context)
    with pytest.raises(RuntimeError, match=r"row 4 is bound to annotator '4'.*person 5 asks"):
        get_reward(socket, ids[[5, 4]], pad, context)  # the right number of rows in the wrong order


def test_the_reward_model_reads_text_with_its_own_tokenizer() -> None:
    """What reaches the reward model is the row's prompt and the decoded completion, without eos and padding."""
    model = WordReward()
    tokenizer = make_tiny_tokenizer(TEXTS)
    ids, bound, context = encode(tokenizer, named_rows(2), ["the garden is open. 🙂", ""])
    bound.prompts = ["as the reward model knows it", "likewise"]
    socket = PersonalizedReward(model).for_ppo(tokenizer)
    socket.bind(bound)
    get_reward(socket, ids, tokenizer.pad_token_id, context)
    assert model.calls == [(["as the reward model knows it"], ["the garden is open. 🙂"], ["0"])]
    assert socket.scored[1].completion == "" and socket.scored[1].raw_reward == -3.0


class TokenReward(nn.Module):
    """Has the fast path: sums of token ids times the person's weight, told apart from the text path by `calls`."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        self.dummy = nn.Parameter(torch.zeros(1))
        self.tokenizer = tokenizer
        tokenize = lambda prompts: [  # noqa: E731
            SimpleNamespace(ids=ids) for ids in tokenizer(prompts, add_special_tokens=False)["input_ids"]
        ]
        self.backbone = SimpleNamespace(is_causal=True, tokenizer=tokenizer, tokenize=tokenize, max_length=100)
        self.calls: list[str] = []

    def weights_for(self, people: list[str]) -> torch.Tensor:
        return torch.tensor([[float(person)] for person in people])

    def score_tokens(self, ids: Any, mask: Any, weights: Any, prompt_lengths: Any) -> torch.Tensor:
        self.calls.append("tokens")
        answers = [row[n : m.sum()] for row, m, n in zip(ids, mask, prompt_lengths, strict=True)]
        return torch.tensor([float(a.sum()) for a in answers]) * weights[:, 0]

    def score(self, prompts: list[str], completions: list[str], annotator_ids: list[str]) -> torch.Tensor:
        self.calls.append("text")
        ids = self.tokenizer(completions, add_special_tokens=False)["input_ids"]
        return torch.tensor([float(sum(i)) for i in ids]) * self.weights_for(annotator_ids)[:, 0]


def test_one_tokenizer_skips_the_detour_and_gives_the_same_rewards() -> None:
    tokenizer = make_tiny_tokenizer(TEXTS)
    rewards = {}
    for name, own in (("tokens", tokenizer), ("text", make_tiny_tokenizer(["other words"] * 3))):
        model = TokenReward(tokenizer)
        model.backbone.tokenizer = own
        socket = PersonalizedReward(model).for_ppo(tokenizer)
        ids, bound, context = encode(tokenizer, named_rows(4)[1:], ["the garden is open.", "open.", ""])
        bound.prompt_ids = socket.prompt_token_ids(bound.prompts)
        socket.bind(bound)
        rewards[name] = get_reward(socket, ids, tokenizer.pad_token_id, context)[1].tolist()
        assert model.calls == [name]
    assert rewards["tokens"] == rewards["text"]
    assert len(set(rewards["text"])) == 3


@pytest.mark.parametrize(
    ("drawn", "max_length"),
    [
        (["Ġthe", "Ġgarden", "."], 100),  # the text begins without the space that the policy drew
        (["the", "Ġgar", "den", "."], 100),  # the text is read as one token "Ġgarden"
        (["the", "Ġgarden", "."], 8),  # prompt and completion together are longer, so the prompt loses its beginning
    ],
)
def test_what_a_text_would_not_give_is_scored_as_text(drawn: list[str], max_length: int) -> None:
    """The reward in training is the one that scales, judges and reports see."""
    from palign.data.annotators import AnnotatorIndex
    from palign.models.pal import PALRewardModel

    tokenizer = make_tiny_tokenizer(TEXTS)
    tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    people = AnnotatorIndex([str(i) for i in range(40)])
    model = PALRewardModel.from_backbone(
        make_tiny_lm(tokenizer, hidden_size=16, n_layers=1, n_heads=2), tokenizer=tokenizer, n_prototypes=2,
        annotators=people, max_length=max_length,
    ).eval()  # fmt: skip
    rows, read = named_rows(2), []
    keep = model.backbone.register_forward_pre_hook(lambda _, given: read.extend(given[0].tolist()))
    expected = model.score([row["prompt"] for row in rows], ["the garden."] * 2, ["0", "1"])
    of_text, drawn_ids = list(read), tokenizer.convert_tokens_to_ids(drawn)
    assert None not in drawn_ids and tokenizer.decode(drawn_ids).strip() == "the garden."
    read.clear()
    socket = PersonalizedReward(model).for_ppo(tokenizer)
    ids, bound, context = encode(tokenizer, rows, [""] * 2)
    ids = torch.cat((ids[:, :context], torch.tensor([[*drawn_ids, tokenizer.eos_token_id]] * 2)), 1)
    bound.prompt_ids = socket.prompt_token_ids(bound.prompts)
    socket.bind(bound)
    found = get_reward(socket, ids, tokenizer.pad_token_id, context)[1]
    keep.remove()
    assert socket.shares_tokenizer and read == of_text
    assert torch.equal(found, expected)


class CollatorSideChannel:
    """The wrong way: the collator leaves the rows it collated last where the reward looks for people."""

    def __init__(self, tokenizer: Any) -> None:
        self.collate, self.latest = DataCollatorWithPadding(tokenizer), []

    def __call__(self, rows: list[dict[str, Any]]) -> Any:
        self.latest = [row["row"] for row in rows]
        return self.collate(rows)


class SideChannelLoader(BindingLoader):
    side: CollatorSideChannel

    def __iter__(self) -> Any:
        for batch in self.loader:
            self.bind(self.side.latest, batch)
            yield {"input_ids": batch["input_ids"]}


def run_over_prepared_loader(loader_class: type[BindingLoader], *, looks_away: bool) -> list[SeenRow]:
    """Score four batches from an Accelerate loader, which runs one batch ahead, in two chunks each."""
    tokenizer = make_tiny_tokenizer(TEXTS)
    rows, side = named_rows(16), CollatorSideChannel(tokenizer)
    ids = tokenizer([row["prompt"] for row in rows], add_special_tokens=False)["input_ids"]
    data = [{"input_ids": i, "row": n} for n, i in enumerate(ids)]
    loader = Accelerator(cpu=True).prepare(DataLoader(data, batch_size=4, collate_fn=side))
    socket = SpyReward(IdReward()).for_ppo(tokenizer)
    socket.looks_away = looks_away

    def bind(picked: list[int], batch: Any) -> None:
        people = [rows[i]["annotator_id"] for i in picked]
        prompts = [rows[i]["prompt"] for i in picked]
        socket.bind(BoundRows([ids[i] for i in picked], batch["input_ids"].shape[1], prompts, people))

    bound_loader = loader_class(loader, bind)
    bound_loader.side = side
    answer = tokenizer("open.", add_special_tokens=False)["input_ids"] + [
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]
    for batch in bound_loader:
        queries = batch["input_ids"]
        for chunk in torch.cat((queries, torch.tensor([answer] * len(queries))), 1).split(2):
            get_reward(socket, chunk, tokenizer.pad_token_id, queries.shape[1])
    return socket.seen


def test_binding_when_the_loop_takes_the_batch_pairs_every_row() -> None:
    seen = run_over_prepared_loader(BindingLoader, looks_away=True)
    assert len(seen) == 16
    assert wrong_pairings(seen) == 0


def test_a_collator_side_channel_pairs_the_wrong_people_and_is_caught() -> None:
    """The loader is one batch ahead: the check of this file sees the wrong pairs, and the socket refuses them."""
    assert wrong_pairings(run_over_prepared_loader(SideChannelLoader, looks_away=True)) == 12
    with pytest.raises(RuntimeError, match="out of step"):
        run_over_prepared_loader(SideChannelLoader, looks_away=False)


def test_binding_loader_passes_for_the_loader() -> None:
    loader = DataLoader([{"row": 0}, {"row": 1}], batch_size=1)
    bound = BindingLoader(loader, lambda rows, batch: None)
    assert len(bound) == 2
    assert bound.dataset is loader.dataset
    assert [batch for batch in bound] == [{}, {}]


def test_socket_moves_with_the_reward_model() -> None:
    tokenizer = make_tiny_tokenizer(TEXTS)
    socket = PersonalizedReward(TokenReward(tokenizer)).for_ppo(tokenizer)
    assert isinstance(socket, PPORewardSocket)
    assert [p.dtype for p in socket.to(torch.float64).parameters()] == [torch.float64]


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


@pytest.mark.parametrize("variant", ["fixed", "prompt"])
def test_a_pal_reward_model_in_the_socket_gives_what_its_score_gives(variant: str) -> None:
    """By token ids and by text, in chunks, padded: the reward is what `PALRewardModel.score` gives the person."""
    from palign.data.annotators import AnnotatorIndex
    from palign.models.pal import PALRewardModel

    backbone, tokenizer = tiny_policy(seed=3)
    people = AnnotatorIndex([str(i) for i in range(40)])
    model = PALRewardModel.from_backbone(
        backbone, tokenizer=tokenizer, n_prototypes=3, annotators=people, variant=variant
    )
    torch.nn.init.normal_(model.people.logits.weight, generator=torch.Generator().manual_seed(0))
    rows, answers = named_rows(7), ["the garden is open.", "open.", "quiet today", "a", "the", "b c d", "is is is"]
    expected = model.eval().score([r["prompt"] for r in rows], answers, [r["annotator_id"] for r in rows])
    assert expected.unique().numel() == 7
    for shares in (True, False):
        socket = PersonalizedReward(model.train()).for_ppo(tokenizer)
        assert socket.shares_tokenizer
        socket.shares_tokenizer = shares
        ids, bound, context = encode(tokenizer, rows, answers)
        bound.prompt_ids = socket.prompt_token_ids(bound.prompts)
        socket.bind(bound)
        found = [get_reward(socket, chunk, tokenizer.pad_token_id, context)[1] for chunk in ids.split(3)]
        assert torch.allclose(torch.cat(found), expected, atol=1e-5)
