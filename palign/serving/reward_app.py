"""A reward model behind HTTP: rewards for people, OpenRLHF's door, newcomers."""

from collections.abc import Sequence
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from palign.data.annotators import canonical_id
from palign.data.preferences import Preferences
from palign.data.rendering import Written
from palign.integrations.rows import parts_of_query, person_of_label
from palign.models.pal import PALRewardModel
from palign.rewards import PersonalizedReward
from palign.serving.batching import Batcher
from palign.serving.gate import Counts, Gate, Limits
from palign.serving.refusals import answered, refused_by_form
from palign.serving.scorer import PersonScorer, ScoreRow

__all__ = ["PATHS", "reward_app"]

PATHS = ("/score", "/get_reward", "/annotators", "/health", "/metrics")
Person = Annotated[str | int, Field(union_mode="left_to_right")]
Text = str | list[dict[str, Any]]


class ScoreRequest(BaseModel):
    """Completions (n,) of prompts (n,); whose rewards: of people (n,), of one, or of weights over the prototypes."""

    model_config = ConfigDict(extra="forbid")
    prompts: list[Text]
    completions: list[Text]
    annotator_ids: list[Person] | None = None
    annotator_id: Person | None = None
    weights: list[list[float]] | list[float] | None = None

    @model_validator(mode="after")
    def _is_one_of_each(self) -> "ScoreRequest":
        given = [n for n in ("annotator_ids", "annotator_id", "weights") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("say for whom: give exactly one of annotator_ids, annotator_id and weights")
        n_people = len(self.annotator_ids) if self.annotator_ids is not None else len(self.completions)
        if not len(self.prompts) == len(self.completions) == n_people:
            raise ValueError("prompts, completions and annotator_ids must be lists of one length")
        return self


class OpenRLHFRequest(BaseModel):
    """What OpenRLHF 0.11 posts: `query` = prompt + completion; in our use each row's label is its person."""

    query: list[str]
    prompts: list[str]
    labels: list[Any]


class AnnotatorsRequest(BaseModel):
    """Answers of newcomers: rows as training has them (annotator_id, prompt, chosen, rejected, …)."""

    model_config = ConfigDict(extra="forbid")
    rows: list[dict[str, Any]]
    keep: bool = False


def reward_app(
    model: PALRewardModel, *, limits: Limits | None = None, batch_size: int = 64, token: str | None = None
) -> Any:
    """The ASGI application of a reward model on a backbone.

    Args:
        batch_size: texts in one pass.
        token: that requests must carry; None asks for none.
    """
    limits, counts = limits or Limits(), Counts()
    scorer = PersonScorer(model, batch_size=batch_size)
    batcher = Batcher(scorer, rows_at_once=4 * batch_size)
    reader = PersonalizedReward(model, standardize=False)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> Any:
        yield
        batcher.close()

    app = FastAPI(title="palign: rewards that know who they are for", lifespan=lifespan)
    app.add_exception_handler(RequestValidationError, refused_by_form)

    async def rewards_of(rows: Sequence[ScoreRow]) -> list[float]:
        _check(rows, limits)
        return await answered(batcher, rows, at_fault=422)

    @app.post("/score")
    async def score(request: ScoreRequest) -> dict[str, Any]:
        rows = _rows(request, model.n_prototypes)
        rewards = await rewards_of(rows)
        return {"rewards": rewards, "known": [r.weights is not None or scorer.knows(r.annotator_id) for r in rows]}

    @app.post("/get_reward")
    async def get_reward(request: OpenRLHFRequest) -> dict[str, Any]:
        rows = _openrlhf_rows(request, reader)
        found = iter(await rewards_of([row for row in rows if row.completion]))
        rewards = [next(found) if row.completion else reader.empty_z for row in rows]
        return {"rewards": rewards, "scores": rewards, "extra_logs": {"palign_reward": rewards}}

    @app.post("/annotators")
    async def annotators(request: AnnotatorsRequest) -> dict[str, Any]:
        if not 0 < len(request.rows) <= limits.rows:
            raise HTTPException(413, f"{len(request.rows)} rows; give 1 to {limits.rows}.")
        try:
            fit = await batcher.alone(lambda: _fitted(model, request.rows, keep=request.keep))
        except (KeyError, TypeError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        columns = zip(fit.ids, fit.weights.tolist(), fit.spread.tolist(), fit.n_rows.tolist(), strict=True)
        names = ("annotator_id", "weights", "spread", "n_rows")
        return {"annotators": [dict(zip(names, column, strict=True)) for column in columns], "kept": request.keep}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "serves": "rewards", "n_prototypes": model.n_prototypes}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        gauges = {
            "palign_rows_waiting": batcher.n_waiting, "palign_rows": batcher.n_rows,
            "palign_batches": batcher.n_batches, "palign_texts_read": scorer.n_texts,
        }  # fmt: skip
        return PlainTextResponse(counts.as_text(gauges))

    return Gate(app, counts=counts, limits=limits, paths=PATHS, token=token)


def _fitted(model: PALRewardModel, rows: list[dict[str, Any]], *, keep: bool) -> Any:
    """Newcomers from their answers, known from now on where they are kept; in the thread of the model."""
    fit = model.fit_annotators(Preferences.from_rows(rows))
    if keep:
        n_known = int((model.annotators.indices(fit.ids, unknown=-1) >= 0).sum())
        if n_known:
            raise ValueError(
                f"{n_known} of these {len(fit.ids)} people have weights here already, which are not changed while the "
                "server runs. Leave keep out to see what their answers say."
            )
        model.add_annotators(fit)
    return fit


def _openrlhf_rows(request: OpenRLHFRequest, reader: PersonalizedReward) -> list[ScoreRow]:
    if not len(request.query) == len(request.prompts) == len(request.labels):
        raise HTTPException(422, "query, prompts and labels must be lists of one length.")
    rows = []
    try:
        for query, prompt, label in zip(request.query, request.prompts, request.labels, strict=True):
            read, completion = parts_of_query(query, prompt, reader.model.tokenizer)
            is_answer = completion and isinstance(read, Written)
            rows.append(
                ScoreRow(read, reader.as_read(read, completion) if is_answer else completion, person_of_label(label))
            )
    except (TypeError, ValueError) as error:
        raise HTTPException(422, str(error)) from None
    return rows


def _rows(request: ScoreRequest, n_prototypes: int) -> list[ScoreRow]:
    pairs = list(zip(request.prompts, request.completions, strict=True))
    if request.weights is None:
        people = request.annotator_ids if request.annotator_ids is not None else [request.annotator_id] * len(pairs)
        try:
            return [ScoreRow(p, c, canonical_id(person)) for (p, c), person in zip(pairs, people, strict=True)]
        except ValueError as error:
            raise HTTPException(422, str(error)) from None
    weights = request.weights
    rows = weights if weights and isinstance(weights[0], list) else [weights] * len(pairs)
    if len(rows) != len(pairs) or not all(_is_on_simplex(row, n_prototypes) for row in rows):
        message = f"weights must be {n_prototypes} numbers, 0 or more, of sum 1: one list, or one for each row."
        raise HTTPException(422, message)
    return [ScoreRow(p, c, weights=tuple(row)) for (p, c), row in zip(pairs, rows, strict=True)]


def _is_on_simplex(row: Any, n: int) -> bool:
    return isinstance(row, list) and len(row) == n and min(row) >= 0 and abs(sum(row) - 1) <= 1e-3


def _check(rows: Sequence[ScoreRow], limits: Limits) -> None:
    if len(rows) > limits.rows:
        raise HTTPException(413, f"{len(rows)} rows; this server takes {limits.rows} in a request.")
    for number, row in enumerate(rows):
        for text in (row.prompt, row.completion):
            if not isinstance(text, str) and not all(
                isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str) for turn in text
            ):
                raise HTTPException(422, f"Row {number} (counting from 0) has a message without role and content.")
            size = len(text) if isinstance(text, str) else sum(len(turn["content"]) for turn in text)
            if size > limits.characters:
                message = (
                    f"Row {number} (counting from 0) has {size} characters; this server takes {limits.characters}."
                )
                raise HTTPException(413, message)
