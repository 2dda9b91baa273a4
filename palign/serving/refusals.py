"""Requests that cannot be answered: what is wrong, without sending their texts back."""

from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from palign.serving.batching import Batcher, TooBusyError

__all__ = ["answered", "refused_by_form"]

SHOWN = 5


async def answered(batcher: Batcher, rows: Sequence[Any], *, at_fault: int) -> list[Any]:
    """What a batcher gives; HTTPException with 503 where too much waits, `at_fault` where a row cannot be read."""
    try:
        return await batcher(rows)
    except TooBusyError as error:
        raise HTTPException(503, str(error), headers={"Retry-After": "1"}) from None
    except ValueError as error:
        raise HTTPException(at_fault, str(error)) from None


async def refused_by_form(_: Request, error: RequestValidationError) -> JSONResponse:
    """Status 422, with place and reason of the first faults, in the form that OpenAI's client reads."""
    faults = [
        f"{'.'.join(map(str, fault['loc'][1:])) or 'body'}: {fault['msg'].removeprefix('Value error, ')}"
        for fault in error.errors()[:SHOWN]
    ]
    message = "; ".join(faults)
    return JSONResponse(
        {"detail": message, "error": {"message": message, "type": "invalid_request_error", "code": 422}}, 422
    )
