"""The error tree. An error's docstring is its default message.

Owns what can go wrong and how it is named to a client; never how it is sent (see `app.failures`).
"""

import inspect


class HeartlineError(Exception):
    """Heartline made a mistake. The operator finds it in the log under this run or request id."""

    status = 500
    type = "server_error"
    code: str | None = "internal_error"

    def __init__(self, message: str | None = None, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message or inspect.cleandoc(type(self).__doc__ or ""))
        self.param = param
        if code is not None:
            self.code = code

    @property
    def message(self) -> str:
        return str(self)


class ConfigurationError(HeartlineError):
    """A setting is wrong. The message names it; the process does not start."""

    code = "configuration"


# --- the client's mistakes ------------------------------------------------------------------------


class InvalidRequest(HeartlineError):
    """The request is not valid."""

    status = 400
    type = "invalid_request_error"
    code = None


class Unauthorized(HeartlineError):
    """No valid API key. Send the header 'Authorization: Bearer <key>' with a key of this server."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class Forbidden(HeartlineError):
    """This key may not do that. It takes one that is named in HEARTLINE_OPERATORS."""

    status = 403
    type = "invalid_request_error"
    code = "forbidden"


class ForeignOrigin(Forbidden):
    """This request did not come from a page of this server, so a browser's login does not count for it."""

    code = "foreign_origin"


class NotFound(HeartlineError):
    """There is nothing here."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class RunNotFound(NotFound):
    """No such run. It never existed, has expired, or belongs to another API key."""

    code = "run_not_found"


class ModelNotFound(NotFound):
    """No such model."""

    code = "model_not_found"


class TooLarge(HeartlineError):
    """The request is too large."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class IdempotencyConflict(HeartlineError):
    """This Idempotency-Key was used with another request. Send a new key with a new request."""

    status = 422
    type = "invalid_request_error"
    code = "idempotency_key_reused"


class TooManyRuns(HeartlineError):
    """Too many runs are waiting. Please try again when some of them have started."""

    status = 429
    type = "rate_limit_error"
    code = "too_many_queued_runs"
    retry_after_seconds = 10


# --- nobody's mistake -----------------------------------------------------------------------------


class Unavailable(HeartlineError):
    """Heartline cannot reach its Redis at the moment. Please try again in a few seconds."""

    status = 503
    code = "unavailable"
    retry_after_seconds = 5


class AppendRefused(HeartlineError):
    """The log took an event from somebody else, or the run has ended: this writer must stop."""

    code = "append_refused"


class LogLost(HeartlineError):
    """The run's log is not in Redis any more."""

    code = "log_lost"


class LogShort(HeartlineError):
    """The run's log is shorter than its writer left it: Redis has lost its end."""

    code = "log_short"

    def __init__(self, message: str, length: int) -> None:
        super().__init__(message)
        self.length = length
