"""Policies by type behind OpenAI's door, asked by OpenAI's own client."""

from collections import Counter
from pathlib import Path

import pytest
import torch

pytest.importorskip("fastapi", reason="the server needs FastAPI: pip install 'palign[serve]'")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
openai = pytest.importorskip("openai")

from palign.models.adapters import route  # noqa: E402
from palign.models.mixture_policy import MixturePolicy  # noqa: E402
from palign.serving.gate import Limits  # noqa: E402
from palign.serving.policy_app import policy_app  # noqa: E402
from palign.serving.policy_engine import ChatRow, PolicyEngine, _DrawnByRow, _within  # noqa: E402
from tests.worlds.serving import posted_at_once, served  # noqa: E402

SAVED = Path(__file__).parents[1] / "saved"
ASK = [{"role": "user", "content": "tea milk"}]


@pytest.fixture(scope="module")
def engine() -> PolicyEngine:
    engine = PolicyEngine.from_pretrained(SAVED / "mixture", fair_path=SAVED / "fair", batch_size=8)
    torch.manual_seed(0)
    for name, parameter in engine.model.named_parameters():  # adapters that were trained for three steps are all alike
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return engine


@pytest.fixture(scope="module")
def address(engine: PolicyEngine):
    with served(policy_app(engine, limits=Limits(characters=2000), max_new_tokens=12)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str):
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def said_by(engine: PolicyEngine, adapter: str, text: str, n: int) -> str:
    """What one adapter alone says, greedily, asked as PEFT's users do."""
    ids = torch.tensor([engine.read([{"role": "user", "content": text}])])
    with route(engine.model, adapter), torch.no_grad():
        out = engine.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=n,
            pad_token_id=engine.tokenizer.pad_token_id,
        )  # fmt: skip
    return engine.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_everybody_is_answered_by_the_adapter_of_their_type(engine: PolicyEngine, client) -> None:
    wanted = {"p0": "type_0", "p1": "type_1", "p2": "type_0", "p3": "type_1", "somebody": "fair", None: "fair"}
    texts = {}
    for person, adapter in wanted.items():
        options = {} if person is None else {"user": person}
        raw = client.chat.completions.with_raw_response.create(
            model="palign", messages=ASK, temperature=0, max_tokens=6, **options
        )
        assert raw.headers["x-palign-adapter"] == adapter
        assert raw.headers["x-palign-person"] == ("known" if person in ("p0", "p1", "p2", "p3") else "unknown")
        answer = raw.parse()
        texts[adapter] = answer.choices[0].message.content
        assert texts[adapter] == said_by(engine, adapter, "tea milk", 6)
        assert answer.usage.prompt_tokens == len(engine.read(ASK)) and answer.usage.completion_tokens <= 6
    assert len(set(texts.values())) == 3


def test_a_mixed_batch_says_what_each_adapter_says_alone(engine: PolicyEngine) -> None:
    texts = ["tea", "rain sun cat dog red", "no"] * 3
    adapters = ["type_0", "type_1", "fair"] * 2 + ["fair", "type_0", "type_1"]
    rows = [
        ChatRow([{"role": "user", "content": t}], a, max_new_tokens=n, temperature=0)
        for t, a, n in zip(texts, adapters, [3, 7, 5, 5, 2, 9, 4, 4, 6], strict=True)
    ]
    answers = engine(rows)
    for row, answer in zip(rows, answers, strict=True):
        assert answer.text == said_by(engine, row.adapter, row.messages[0]["content"], row.max_new_tokens)


def test_many_people_at_once_are_batched_and_each_gets_their_own(engine: PolicyEngine, address: str) -> None:
    people = ["p0", "p1", "stranger"] * 20
    before = gauge(address, "palign_batches")
    bodies = [{"messages": ASK, "user": p, "temperature": 0, "max_completion_tokens": 5} for p in people]
    answers = posted_at_once(address, "/v1/chat/completions", bodies)
    assert {status for status, _ in answers} == {200}
    alone = {p: said_by(engine, a, "tea milk", 5) for p, a in zip(people, ["type_0", "type_1", "fair"], strict=False)}
    assert [a["choices"][0]["message"]["content"] for _, a in answers] == [alone[p] for p in people]
    assert gauge(address, "palign_batches") - before <= 30


def gauge(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def test_a_seed_is_kept_whoever_else_asks(client, address: str) -> None:
    options = {"model": "palign", "messages": ASK, "max_tokens": 8, "user": "p0", "seed": 3}
    first = client.chat.completions.create(**options, n=3)
    said = [choice.message.content for choice in first.choices]
    assert len(set(said)) > 1
    bodies = [{"messages": ASK, "user": f"p{i % 4}", "seed": i, "max_tokens": 3} for i in range(10)]
    bodies.append({"messages": ASK, "user": "p0", "seed": 3, "max_tokens": 8, "n": 3})
    *_, (status, answer) = posted_at_once(address, "/v1/chat/completions", bodies)
    assert status == 200 and [c["message"]["content"] for c in answer["choices"]] == said


def test_draws_are_of_the_tempered_distribution_within_top_p() -> None:
    """Four tokens of probabilities .4, .3, .2, .1; of 4,000 draws the shares are within 4 standard errors."""
    p = torch.tensor([0.4, 0.3, 0.2, 0.1])
    n = 4000
    for temperature, top_p, wanted in [
        (1.0, 1.0, p),
        (0.5, 1.0, torch.tensor([16.0, 9.0, 4.0, 1.0]) / 30),
        (1.0, 0.6, torch.tensor([4.0, 3.0, 0.0, 0.0]) / 7),
    ]:
        rows = [ChatRow([], "type_0", 1, temperature, top_p, seed=i) for i in range(n)]
        drawn = _DrawnByRow(rows)(torch.zeros(n, 1), p.log().expand(n, 4)).argmax(1)
        shares = torch.tensor([Counter(drawn.tolist())[k] / n for k in range(4)])
        assert ((shares - wanted).abs() <= 4 * (wanted * (1 - wanted) / n).sqrt()).all(), (temperature, top_p, shares)
    assert _within(p.log(), 0.1).exp().tolist() == pytest.approx([0.4, 0, 0, 0])


def test_streaming_gives_the_same_answer(client) -> None:
    options = {"model": "palign", "messages": ASK, "max_tokens": 5, "temperature": 0, "user": "p1"}
    whole = client.chat.completions.create(**options)
    pieces = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == whole.choices[0].message.content
    assert [p.choices[0].finish_reason for p in pieces if p.choices][-1] == whole.choices[0].finish_reason
    assert pieces[-1].usage.total_tokens == whole.usage.total_tokens


def test_an_answer_ends_before_a_stop_text(client) -> None:
    options = {"model": "palign", "messages": ASK, "max_tokens": 8, "temperature": 0, "user": "p0"}
    whole = client.chat.completions.create(**options).choices[0].message.content
    mark = whole[len(whole) // 2 :][:2]
    cut = client.chat.completions.create(**options, stop=[mark]).choices[0]
    assert cut.message.content == whole[: whole.find(mark)] and cut.finish_reason == "stop"


def test_without_a_fair_policy_strangers_are_served_by_their_shares() -> None:
    engine = PolicyEngine.from_pretrained(SAVED / "mixture")
    engine.policy.record.mixing_weights[:] = [0.25, 0.75]
    drawn = Counter(engine.adapter_for("stranger", seed=i) for i in range(400))
    assert drawn.keys() == {("type_0", False), ("type_1", False)}
    assert abs(drawn["type_1", False] - 300) < 4 * (400 * 0.75 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "gpt-4"}, "NotFoundError", "There is no model 'gpt-4' here"),
        ({"messages": []}, "UnprocessableEntityError", "messages: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "UnprocessableEntityError", "tools: "),
        ({"temperature": 3}, "UnprocessableEntityError", "temperature: "),
        ({"frequency_penalty": 0.5}, "UnprocessableEntityError", "frequency_penalty: "),
        ({"messages": [*ASK, {"role": "assistant", "content": "a"}]}, "BadRequestError", "trained on bare questions"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "APIStatusError", "3000 characters"),
        ({"messages": [{"role": "user", "content": "tea " * 400}]}, "BadRequestError", "tokens; the model takes"),
        ({"user": "  "}, "BadRequestError", "An annotator id is empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_openais_form(client, changes: dict, error: str, message: str) -> None:
    with pytest.raises(getattr(openai, error), match=message):
        client.chat.completions.create(**{"model": "palign", "messages": ASK, "max_tokens": 3} | changes)


def test_the_token_is_the_api_key(engine: PolicyEngine) -> None:
    with served(policy_app(engine, token="sesame-open")) as address:
        right, wrong = (
            openai.OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0) for key in ("sesame-open", "sesame")
        )
        assert right.models.list().data[0].id == "palign"
        with pytest.raises(openai.AuthenticationError, match="asks for a token"):
            wrong.models.list()


def test_the_mixture_generates_as_before(engine: PolicyEngine) -> None:
    """The engine puts an adapter beside the types and changes none."""
    policy = engine.policy
    assert isinstance(policy, MixturePolicy) and policy.policies.names == ["type_0", "type_1"]
    texts = policy.generate(["tea milk"], annotator_ids=["p1"], temperature=0, max_new_tokens=4)
    assert texts == [said_by(engine, "type_1", "tea milk", 4)]
