"""The one place where errors become HTTP answers, always in OpenAI's form."""

import logging
from typing import Any

from flask import Flask, Response, request
from msgspec import json
from redis.exceptions import RedisError
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from core.clients import AWAY
from core.errors import (
    HeartlineError,
    InvalidRequest,
    NotFound,
    TooLarge,
    TooManyRuns,
    Unauthorized,
    Unavailable,
)

logger = logging.getLogger(__name__)


def body(error: HeartlineError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def response(error: HeartlineError) -> Response:
    """The error as a whole HTTP answer."""
    answer = Response(json.encode(body(error)), status=error.status, mimetype="application/json")
    if isinstance(error, Unavailable | TooManyRuns):
        answer.headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, Unauthorized):
        answer.headers["WWW-Authenticate"] = "Bearer"
    return answer


def register(app: Flask) -> None:
    """Make `app` answer every error through `response`."""
    app.register_error_handler(HeartlineError, response)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(RedisError, _redis)
    app.register_error_handler(Exception, _unexpected)


def _http(error: HTTPException) -> Response:
    if isinstance(error, RequestEntityTooLarge):
        limit = request.max_content_length
        return response(TooLarge(f"The request's body is larger than {limit} bytes (HEARTLINE_MAX_BODY_BYTES)."))
    if error.code == 404:
        return response(NotFound(f"There is nothing at {request.path}. The API is below /v1."))
    answer: HeartlineError = InvalidRequest(error.description)
    answer.status = error.code or 500
    if error.code == 405:
        answer = InvalidRequest(f"{request.method} is not possible at {request.path}.", code="method_not_allowed")
        answer.status = 405
    converted = response(answer)
    for name, value in error.get_headers(request.environ):
        if name.lower() == "allow":
            converted.headers[name] = value
    return converted


def _redis(error: RedisError) -> Response:
    if not isinstance(error, AWAY):
        return _unexpected(error)
    logger.warning("redis_away path=%s error=%s", request.path, type(error).__name__)
    return response(Unavailable())


def _unexpected(error: Exception) -> Response:
    logger.error("request_failed path=%s", request.path, exc_info=error)
    return response(HeartlineError())
