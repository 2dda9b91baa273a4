"""A request whose form is wrong: what is wrong of it, without sending its texts back."""

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

__all__ = ["refused_by_form"]

SHOWN = 5


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
