"""rq-dashboard under /jobs, for operators: it shows RQ's queues, jobs and workers, and stops a job. Nothing else.

It is an application of its own inside ours, because it keeps a connection and settings in whatever application it
lives in. What it can do beyond showing is not there: deleting and requeueing would tear a job from its run, and it
takes requests from any page. Its templates, which write texts as markup, go through a filter. (rq-dashboard 0.9.0)
"""

import re
import secrets
from typing import Any, cast

import rq.serializers
from flask import Blueprint, Flask, Response, g, request
from jinja2 import BaseLoader, Environment
from rq.exceptions import NoSuchJobError
from rq.serializers import JSONSerializer
from werkzeug.exceptions import NotFound

from app.auth import required
from app.pages import POLICY, secured, sorry, visitors
from app.services import Services
from core import errors
from core.errors import Forbidden, HeartlineError
from core.run import Lane

PREFIX = "/jobs"
NAME = "rq_dashboard"
SHOWN = frozenset(
    f"{NAME}.{view}"
    for view in (
        "static", "queues_overview", "workers_overview", "jobs_overview", "job_view",
        "list_queues", "list_jobs", "job_info", "list_workers",
    )
)  # fmt: skip
"""The views that only show something. All others are not there."""

REGISTRIES = ("queued", "started", "finished", "failed", "canceled", "deferred", "scheduled")
MAX_PER_PAGE = 200

_ESCAPED_ALREADY = re.compile(r"\$\('<div/>'\)\.text\(([\w.]+)\)\.html\(\)")


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("jobs", __name__)
    dashboard = build(services)
    logged_in = visitors.logged_in(services)

    @blueprint.get(f"{PREFIX}/", strict_slashes=False)
    @blueprint.get(f"{PREFIX}/<path:path>")
    @logged_in
    def show(path: str = "") -> Response:
        if not g.operator:
            raise Forbidden
        environ = {**request.environ, "SCRIPT_NAME": PREFIX, "PATH_INFO": f"/{path}"}
        answer = cast(Response, Response.from_app(dashboard, environ, buffered=True))
        if answer.status_code == 404:
            raise errors.NotFound("There is no such job, or no such page here.")
        return answer

    @blueprint.post(f"{PREFIX}/<run_id>/stop")
    @required(services.api_keys, services.logins)
    def stop(run_id: str) -> dict[str, Any]:
        if not g.operator:
            raise Forbidden
        return {"status": services.stopper.cancel(run_id, "stopped in the queue's dashboard").status.value}

    @blueprint.errorhandler(HeartlineError)
    def failed(error: HeartlineError) -> Response:
        return sorry(error)

    return blueprint


class Dashboard(Flask):
    """The application that rq-dashboard lives in; its templates are filtered."""

    redis_conn: Any  # where rq-dashboard looks for its connection

    def create_global_jinja_loader(self) -> Any:
        return Filtered(super().create_global_jinja_loader())


class Filtered(BaseLoader):
    """rq-dashboard's templates with every text escaped, scripts that our policy knows, and our own look."""

    def __init__(self, loader: BaseLoader) -> None:
        self._loader = loader

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Any]:
        source, path, is_fresh = self._loader.get_source(environment, template)
        return filtered(source), path, is_fresh


def filtered(source: str) -> str:
    """In Underscore's templates, which make up the tables, `<%=` writes markup and `<%-` text."""
    source = _ESCAPED_ALREADY.sub(r"\1", source).replace("<%=", "<%-")
    source = source.replace('<script type="text/javascript">', '<script nonce="{{ nonce }}">')
    source = source.replace("{{ url_for('static', filename='favicon.ico') }}", "/static/icon.svg")
    source = source.replace("</head>", '<link rel="stylesheet" href="/static/jobs.css"></head>')
    return source.replace("</body>", '<script type="module" src="/static/jobs.js"></script></body>')


def build(services: Services) -> Flask:
    """The dashboard, on our own connections to Redis: by itself it opens new ones with each request."""
    # Our jobs are JSON. Where nobody says so, RQ takes pickle, which runs whatever is in Redis; rq-dashboard does not
    # say so everywhere. In this process nobody is to unpickle anything, ever.
    for name in ("DefaultSerializer", "PickleSerializer"):
        setattr(rq.serializers, name, JSONSerializer)
    from rq_dashboard import blueprint

    app = Dashboard(NAME, static_folder=None)
    app.url_map.redirect_defaults = (
        False  # a redirect would name the host that we see, not the one that the client does
    )
    app.redis_conn = services.redis
    app.config.update(
        PROPAGATE_EXCEPTIONS=True,  # what goes wrong is for the one place that makes answers of errors
        RQ_DASHBOARD_REDIS_URL=["Redis"],  # a name for the eye, not an address
        RQ_DASHBOARD_DISABLE_DELETE=True,
    )
    app.register_blueprint(blueprint)
    app.register_error_handler(NoSuchJobError, lambda _: ("", 404))
    app.before_request_funcs.pop(NAME)  # what opens the connections
    app.before_request(_only_what_is_shown)
    app.context_processor(lambda: {"nonce": g.nonce})
    app.after_request(_secured)
    return app


def _only_what_is_shown() -> None:
    """Raises `NotFound` for everything else, and for what would only end in an exception."""
    g.nonce = secrets.token_urlsafe(16)
    wanted = request.view_args or {}
    if request.endpoint not in SHOWN or wanted.get("instance_number", 0) != 0:
        raise NotFound
    if "queue_name" in wanted:
        wanted["queue_name"] = wanted["queue_name"] or Lane.RUNS.value
        known = wanted["queue_name"] in list(Lane) and wanted["registry_name"] in REGISTRIES
        if not (known and _between(wanted["page"], 1, 10**6) and _between(wanted["per_page"], 1, MAX_PER_PAGE)):
            raise NotFound


def _between(text: Any, low: int, high: int) -> bool:
    return str(text).isdecimal() and low <= int(text) <= high


def _secured(response: Response) -> Response:
    """With a policy of its own: Underscore compiles its templates in the browser, and Bootstrap has inline styles."""
    nonce = g.get("nonce", "")
    policy = {
        **POLICY,
        "script-src": f"'self' 'nonce-{nonce}' 'unsafe-eval'",
        "style-src": "'self' 'unsafe-inline'",
        "font-src": "'self' data:",
        "form-action": "'none'",
    }
    return secured(response, policy)
