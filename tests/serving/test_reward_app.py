"""Rewards over the loopback: equal to the model's, whatever comes with them."""

import json
import logging
import socket
import threading
import time

import pytest
import torch

pytest.importorskip("fastapi", reason="the server needs FastAPI: pip install 'palign[serve]'")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from palign.data.preferences import Preferences  # noqa: E402
from palign.rewards import PersonalizedReward  # noqa: E402
from palign.serving.gate import TOKEN_VARIABLE, Limits  # noqa: E402
from palign.serving.reward_app import reward_app  # noqa: E402
from palign.serving.start import NoWords, token_of_environment  # noqa: E402
from tests.models.classifier.test_export import chat_model  # noqa: E402
from tests.worlds.reward_models import text_model, text_rows, vector_model  # noqa: E402
from tests.worlds.serving import posted_at_once, served  # noqa: E402

SECRET = "anna.smith@example.org"


@pytest.fixture(scope="module")
def model():
    return text_model("llama", variant="prompt", personal_dim=2)


@pytest.fixture(scope="module")
def address(model):
    limits = Limits(body_bytes=200_000, rows=2000, characters=5000)
    with served(reward_app(model, limits=limits, batch_size=8)) as address:
        yield address


def post(address: str, path: str, **body: object):
    return httpx.post(address + path, json=body, timeout=60)


def texts(n: int, seed: int = 0) -> tuple[list[str], list[str]]:
    rows = text_rows(n, seed=seed)
    return [row["prompt"] for row in rows], [row["chosen"] for row in rows]


def test_rewards_are_those_of_score_for_everybody(address: str, model) -> None:
    prompts, completions = texts(30)
    people = [f"p{i % 5}" for i in range(28)] + ["stranger", "p0"]
    found = post(address, "/score", prompts=prompts, completions=completions, annotator_ids=people).json()
    wanted = model.score(prompts, completions, people)
    torch.testing.assert_close(torch.tensor(found["rewards"]), wanted, atol=1e-5, rtol=1e-5)
    assert found["known"] == [person != "stranger" for person in people]
    one = post(address, "/score", prompts=prompts, completions=completions, annotator_id="p3").json()["rewards"]
    torch.testing.assert_close(torch.tensor(one), model.score(prompts, completions, "p3"), atol=1e-5, rtol=1e-5)
    weights = [0.2, 0.5, 0.3]
    given = post(address, "/score", prompts=prompts, completions=completions, weights=weights).json()["rewards"]
    wanted = model.score(prompts, completions, weights=torch.tensor(weights))
    torch.testing.assert_close(torch.tensor(given), wanted, atol=1e-5, rtol=1e-5)


def test_a_text_is_read_once_for_all_who_ask(address: str, model) -> None:
    before = count(address, "palign_texts_read")
    prompts, completions = ["tea milk"] * 15, ["rain", "sun", "cat"] * 5
    people = [f"p{i // 3}" for i in range(15)]
    found = post(address, "/score", prompts=prompts, completions=completions, annotator_ids=people).json()["rewards"]
    torch.testing.assert_close(torch.tensor(found), model.score(prompts, completions, people), atol=1e-5, rtol=1e-5)
    assert count(address, "palign_texts_read") - before == 3


def count(address: str, name: str) -> float:
    lines = httpx.get(f"{address}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[-1])


def test_a_thousand_requests_at_once_are_all_answered(address: str, model) -> None:
    prompts, completions = texts(1000, seed=5)
    people = [f"p{i % 7}" for i in range(1000)]  # some are strangers
    n_batches = count(address, "palign_batches")

    answers = posted_at_once(
        address,
        "/score",
        [
            {"prompts": [p], "completions": [c], "annotator_id": person}
            for p, c, person in zip(prompts, completions, people, strict=True)
        ],
    )
    assert {status for status, _ in answers} == {200}
    found = torch.tensor([answer["rewards"][0] for _, answer in answers])
    torch.testing.assert_close(found, model.score(prompts, completions, people), atol=1e-5, rtol=1e-5)
    assert count(address, "palign_batches") - n_batches < 500  # they were batched


def test_newcomers_get_weights_with_their_spread_and_can_stay(address: str, model) -> None:
    rows = [row | {"annotator_id": "new"} for row in text_rows(6)]
    found = post(address, "/annotators", rows=rows).json()
    fit = model.fit_annotators(Preferences.from_rows(rows))
    assert not found["kept"] and found["annotators"][0]["n_rows"] == 6
    torch.testing.assert_close(torch.tensor([found["annotators"][0]["weights"]]), fit.weights)
    torch.testing.assert_close(torch.tensor([found["annotators"][0]["spread"]]), fit.spread)
    ask = {"prompts": ["tea"], "completions": ["milk"], "annotator_id": "new"}
    assert post(address, "/score", **ask).json()["known"] == [False]
    assert post(address, "/annotators", rows=rows, keep=True).json()["kept"]
    after = post(address, "/score", **ask).json()
    assert after["known"] == [True]
    wanted = model.score(["tea"], ["milk"], weights=fit.weights, deviations=fit.deviations)
    torch.testing.assert_close(torch.tensor(after["rewards"]), wanted, atol=1e-4, rtol=1e-4)
    again = post(address, "/annotators", rows=rows, keep=True)
    assert again.status_code == 422 and "1 of these 1 people have weights here already" in again.json()["detail"]


@pytest.mark.parametrize("label", ["p1", '{"annotator_id": "p1"}', {"annotator_id": "p1"}])
def test_openrlhf_asks_as_its_agent_does(label: object) -> None:
    """The payload of `_fetch_rewards_via_http` in openrlhf/utils/agent.py, OpenRLHF 0.11.2: one row a call."""
    model = chat_model()
    tokenizer = model.tokenizer
    asks = ["ask 0", "kind 1"]
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": a}], tokenize=False, add_generation_prompt=True)
        for a in asks
    ]
    answers = ["answer 2 3", "think"]
    queries = [p + a + "</s>" + tokenizer.eos_token for p, a in zip(prompts, answers, strict=True)]
    with served(reward_app(model)) as address:
        found = post(address, "/get_reward", query=queries, prompts=prompts, labels=[label, "p2"]).json()
    assert found["rewards"] == found["scores"] == found["extra_logs"]["palign_reward"]
    wanted = model.score(asks, answers, ["p1", "p2"])
    torch.testing.assert_close(torch.tensor(found["rewards"]), wanted, atol=1e-5, rtol=1e-5)
    reward = PersonalizedReward(model, standardize=False)
    assert found["rewards"] == pytest.approx(reward(asks, answers, annotator_id=["p1", "p2"]), abs=1e-5)


def test_openrlhf_with_an_empty_answer_or_without_a_person(address: str) -> None:
    found = post(address, "/get_reward", query=["tea "], prompts=["tea "], labels=["p1"]).json()
    assert found["rewards"] == [-3.0]
    for body, message in [
        ({"query": ["x"], "prompts": ["tea"], "labels": ["p1"]}, "does not begin with its prompt"),
        ({"query": ["tea x"], "prompts": ["tea"], "labels": [None]}, "must be a text or a number"),
        ({"query": ["tea x"], "prompts": ["tea"], "labels": ['{"answer": 4}']}, "no 'annotator_id'"),
        ({"query": ["tea x"], "prompts": ["tea"], "labels": []}, "lists of one length"),
    ]:
        answer = post(address, "/get_reward", **body)
        assert answer.status_code == 422 and message in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "JSON decode error"),
        (b'{"prompts": ["a"]}', "completions: Field required"),
        (b'{"prompts": "a", "completions": ["b"], "annotator_id": "p1"}', "prompts: Input should be a valid list"),
        (b'{"prompts": ["a"], "completions": ["b"]}', "say for whom"),
        (b'{"prompts": ["a"], "completions": ["b", "c"], "annotator_id": "p1"}', "lists of one length"),
        (b'{"prompts": ["a"], "completions": ["b"], "weights": [1, 1, 1]}', "of sum 1"),
        (b'{"prompts": ["a"], "completions": ["b"], "annotator_id": " "}', "An annotator id is empty"),
        (b'{"prompts": [[{"role": 1}]], "completions": ["b"], "annotator_id": "p1"}', "without role and content"),
        (b'{"prompts": [[{"role": "user", "content": "a"}]], "completions": ["b"], "annotator_id": "p1"}', "messages"),
        (b'{"prompts": ["a"], "completions": ["\\ud800"], "annotator_id": "p1"}', "surrogate"),
        (b'{"prompts": ["a"], "completions": ["b"], "annotator_id": "p1", "person": 1}', "Extra inputs"),
    ],
)
def test_what_is_wrong_of_a_request_is_said_and_does_no_harm(address: str, body: bytes, message: str) -> None:
    answer = httpx.post(f"{address}/score", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422 and message in answer.text, answer.text
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


def test_what_is_too_much_is_refused(address: str) -> None:
    ask = {"prompts": ["a"], "completions": ["b"], "annotator_id": "p1"}
    assert post(address, "/score", **ask | {"completions": ["b" * 6000]}).status_code == 413
    many = {"prompts": ["a"] * 2001, "completions": ["b"] * 2001, "annotator_id": "p1"}
    assert "2001 rows; this server takes 2000" in post(address, "/score", **many).json()["detail"]
    big = json.dumps(ask | {"completions": ["b" * 300_000]}).encode()
    answer = httpx.post(f"{address}/score", content=big)
    assert answer.status_code == 413 and "this server takes 200000" in answer.json()["error"]["message"]
    chunks = (big[i : i + 1000] for i in range(0, len(big), 1000))  # no content-length
    try:
        assert httpx.post(f"{address}/score", content=chunks).status_code == 413
    except httpx.WriteError:
        pass  # the connection was closed as the rest came
    assert post(address, "/score", **ask).status_code == 200


def raw(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def test_slow_and_broken_clients_hold_nobody_up(model) -> None:
    with served(reward_app(model, limits=Limits(read_seconds=1.0))) as address:
        ask_beside_slow_and_broken_ones(address, model)


def ask_beside_slow_and_broken_ones(address: str, model) -> None:
    slow = [raw(address) for _ in range(50)]
    for connection in slow:  # a body that never comes, and headers that never end
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
    endless = [raw(address) for _ in range(50)]
    for connection in endless:
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nX: ")
    for _ in range(20):  # cut off in the middle
        connection = raw(address)
        connection.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        connection.close()
    start = time.monotonic()
    found = post(address, "/score", prompts=["tea"], completions=["milk"], annotator_id="p1").json()
    assert time.monotonic() - start < 1.0
    assert found["rewards"] == pytest.approx(model.score(["tea"], ["milk"], "p1").tolist(), abs=1e-5)
    assert b" 408 " in slow[0].recv(1000)
    for connection in [*slow, *endless]:
        connection.close()


def test_a_token_is_asked_for_where_there_is_one(model) -> None:
    ask = {"prompts": ["a"], "completions": ["b"], "annotator_id": "p1"}
    with served(reward_app(model, token="sesame-open")) as address:
        assert httpx.get(f"{address}/health").status_code == 200
        for headers in ({}, {"Authorization": "Bearer sesame-opem"}, {"Authorization": "sesame-open"}):
            answer = httpx.post(f"{address}/score", json=ask, headers=headers)
            assert answer.status_code == 401 and "asks for a token" in answer.json()["error"]["message"]
            assert httpx.get(f"{address}/metrics", headers=headers).status_code == 401
        headers = {"Authorization": "Bearer sesame-open"}
        assert httpx.post(f"{address}/score", json=ask, headers=headers).status_code == 200


def test_other_machines_are_let_in_with_a_token_only(monkeypatch) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert (
        token_of_environment("127.0.0.1") is token_of_environment("localhost") is token_of_environment("::1") is None
    )
    for host in ("0.0.0.0", "::", "192.168.0.2", "example.org"):
        with pytest.raises(ValueError, match=f"--host {host} lets other machines in, and there is no token"):
            token_of_environment(host)
    monkeypatch.setenv(TOKEN_VARIABLE, "sesame-open")
    assert token_of_environment("0.0.0.0") == "sesame-open"
    monkeypatch.setenv(TOKEN_VARIABLE, "short")
    with pytest.raises(ValueError, match="at least 8 plain characters"):
        token_of_environment("127.0.0.1")


def test_no_id_and_no_text_is_in_any_log(model, monkeypatch, caplog) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(f"annotator {SECRET!r} wrote 'my secret text'")

    caplog.set_level(logging.DEBUG)
    logging.getLogger("uvicorn.error").addFilter(NoWords())
    with served(reward_app(model)) as address:
        ask = {"prompts": ["my secret text"], "completions": ["b"], "annotator_id": SECRET}
        assert post(address, "/score", **ask).status_code == 200
        assert post(address, "/score", **ask | {"completions": 3}).status_code == 422
        assert httpx.get(f"{address}/{SECRET}").status_code == 404
        monkeypatch.setattr(model.head, "forward", broken)
        assert post(address, "/score", **ask).status_code == 500
        assert SECRET not in httpx.get(f"{address}/metrics").text
    told = "\n".join(record.getMessage() + str(record.exc_info) for record in caplog.records if record.name != "httpx")
    told += "".join(
        logging.Formatter().format(r) for r in caplog.records if not r.name.startswith(("httpx", "httpcore"))
    )
    assert "RuntimeError in broken" in told
    assert SECRET not in told and "secret text" not in told


def test_a_model_of_vectors_is_not_served() -> None:
    with pytest.raises(ValueError, match="takes ready vectors"):
        reward_app(vector_model())


def test_requests_in_work_end_before_the_server_does(model) -> None:
    prompts, completions = texts(1500, seed=3)
    answers: list = []
    with served(reward_app(model, batch_size=4)) as address:
        body = {"prompts": prompts, "completions": completions, "annotator_id": "p1"}
        thread = threading.Thread(target=lambda: answers.append(post(address, "/score", **body)))
        thread.start()
        while not count(address, "palign_rows_waiting") and not answers:
            time.sleep(0.01)
    thread.join()
    assert answers[0].status_code == 200 and len(answers[0].json()["rewards"]) == 1500
