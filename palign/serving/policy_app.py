"""The policies of a mixture behind OpenAI's `/v1/chat/completions`: the request's `user` is the annotator.

Which adapter answered stands in the header `x-palign-adapter`, and in `x-palign-person` whether the person is known.
What the client may send and these policies have not (tools, logprobs, penalties) is refused and not left out.
"""

import json
import secrets
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from palign.data.annotators import canonical_id
from palign.serving.batching import Batcher
from palign.serving.gate import Counts, Gate, Limits
from palign.serving.policy_engine import ChatAnswer, ChatRow, PolicyEngine, now
from palign.serving.refusals import answered, refused_by_form

__all__ = ["MODEL", "PATHS", "policy_app"]

MODEL = "palign"  # each person by the adapter of their type
PATHS = ("/v1/chat/completions", "/v1/models", "/health", "/metrics")
MOST_ANSWERS = 128
GATHER_SECONDS = 0.02  # an answer takes seconds


class Part(BaseModel):
    """A piece of text of a message."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn; its text whole or in parts."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None

    def as_turn(self) -> dict[str, str]:
        """Role and text."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class ChatRequest(BaseModel):
    """The fields of OpenAI's request that are read; those that would change nothing may be sent."""

    model_config = ConfigDict(extra="forbid")
    model: str = MODEL
    messages: Annotated[list[Message], Field(min_length=1)]
    user: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    n: Annotated[int, Field(ge=1, le=MOST_ANSWERS)] = 1
    stop: str | list[str] | None = None
    seed: int | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None


def policy_app(
    engine: PolicyEngine, *, limits: Limits | None = None, max_new_tokens: int = 1024, token: str | None = None
) -> Any:
    """The ASGI application of a mixture.

    Args:
        max_new_tokens: of one answer, at most; what is asked above is cut.
        token: that requests must carry (the client's `api_key`); None asks for none.
    """
    limits, counts = limits or Limits(), Counts()
    batcher = Batcher(engine, rows_at_once=engine.batch_size, gather_seconds=GATHER_SECONDS)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        batcher.close()

    app = FastAPI(title="palign: policies by type", lifespan=lifespan)
    app.add_exception_handler(RequestValidationError, refused_by_form)
    app.add_exception_handler(HTTPException, _in_openais_form)

    @app.post("/v1/chat/completions")
    async def chat(request: ChatRequest) -> Any:
        messages = [message.as_turn() for message in request.messages]
        size = sum(len(turn["content"]) for turn in messages)
        if size > limits.characters:
            raise HTTPException(413, f"The messages have {size} characters; this server takes {limits.characters}.")
        seed = secrets.randbits(62) if request.seed is None else request.seed % 2**62
        adapter, is_known = _adapter(engine, request, seed)
        most = min(request.max_completion_tokens or request.max_tokens or max_new_tokens, max_new_tokens)
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        rows = [
            ChatRow(messages, adapter, most, request.temperature, request.top_p, tuple(filter(None, stop)), seed + i)
            for i in range(request.n)
        ]
        answers = await answered(batcher, rows, at_fault=400)
        headers = {"x-palign-adapter": adapter, "x-palign-person": "known" if is_known else "unknown"}
        if request.stream:
            usage = bool((request.stream_options or {}).get("include_usage"))
            lines = _streamed(answers, request.model, with_usage=usage)
            return StreamingResponse(lines, media_type="text/event-stream", headers=headers)
        return JSONResponse(_completion(answers, request.model), headers=headers)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [{"id": MODEL, "object": "model", "created": now(), "owned_by": "palign"}]}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "serves": "policies", "adapters": engine.adapters}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        gauges = {
            "palign_answers_waiting": batcher.n_waiting, "palign_answers": engine.n_answers,
            "palign_batches": batcher.n_batches,
        }  # fmt: skip
        return PlainTextResponse(counts.as_text(gauges))

    return Gate(app, counts=counts, limits=limits, paths=PATHS, token=token)


def _adapter(engine: PolicyEngine, request: ChatRequest, seed: int) -> tuple[str, bool]:
    if request.model != MODEL:
        raise HTTPException(
            404,
            f"There is no model {request.model!r} here; there is {MODEL!r}, and `user` says whose adapter answers.",
        )
    try:
        person = None if request.user is None else canonical_id(request.user)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
    return engine.adapter_for(person, seed=seed)


async def _in_openais_form(_: Any, error: HTTPException) -> JSONResponse:
    body = {"error": {"message": error.detail, "type": "invalid_request_error", "code": error.status_code}}
    return JSONResponse(body, error.status_code, headers=error.headers)


def _usage(answers: list[ChatAnswer]) -> dict[str, int]:
    read, written = answers[0].n_prompt, sum(answer.n_written for answer in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def _completion(answers: list[ChatAnswer], model: str) -> dict[str, Any]:
    choices = [
        {
            "index": i, "message": {"role": "assistant", "content": answer.text, "refusal": None}, "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        for i, answer in enumerate(answers)
    ]  # fmt: skip
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": "chat.completion", "created": now(), "model": model}
    return head | {"choices": choices, "usage": _usage(answers)}


async def _streamed(answers: list[ChatAnswer], model: str, *, with_usage: bool) -> Any:
    """Server-sent events. An answer comes whole, in one piece: batches of several people are written together."""
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "object": "chat.completion.chunk", "created": now()}
    head |= {"model": model}
    for i, answer in enumerate(answers):
        said = {"index": i, "delta": {"role": "assistant", "content": answer.text}, "finish_reason": None}
        ended = {"index": i, "delta": {}, "finish_reason": answer.finish_reason}
        yield f"data: {json.dumps(head | {'choices': [said]})}\n\n"
        yield f"data: {json.dumps(head | {'choices': [ended]})}\n\n"
    if with_usage:
        yield f"data: {json.dumps(head | {'choices': [], 'usage': _usage(answers)})}\n\n"
    yield "data: [DONE]\n\n"
