"""Python's logging, set up once per process: facts as `action key=value`, on standard error."""

import logging


def configure(level: str) -> None:
    """RQ and gunicorn log at WARNING: what they tell at INFO is told by ours, with the run's id."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("gunicorn.error").addFilter(_unquoted)
    for name in ("rq", "rq.worker", "rq.job", "gunicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _unquoted(record: logging.LogRecord) -> bool:
    """gunicorn quotes a line that it cannot read, which may hold a key."""
    if str(record.msg).startswith("Invalid request from"):
        record.msg, record.args = str(record.msg).partition(":")[0], ()
    return True
