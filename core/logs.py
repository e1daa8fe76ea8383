"""Python's logging, set up once per process: facts as `action key=value`, on standard error."""

import logging


def configure(level: str) -> None:
    """RQ and gunicorn log at WARNING: what they tell at INFO is told by ours, with the run's id."""
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("rq", "rq.worker", "rq.job", "gunicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
