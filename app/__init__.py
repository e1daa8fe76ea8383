"""HTTP in, SSE out: the API. `create_app` is wiring only."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.services import Services


def create_app(services: "Services") -> "Flask":
    """The WSGI application on these services; it starts nothing by itself."""
    # Imported here: `python -m app` loads this package before it can patch the standard library.
    from flask import Flask

    from app import access, chat, counting, failures, health, jobs, models, older, overview, runs, scrape, usage
    from app.pages import views as pages

    app = Flask("heartline", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # a redirect would name the host that we see, not the one that the client does
    for noun in (chat, models, runs, usage, older, overview, pages, jobs, health, scrape, counting):
        app.register_blueprint(noun.routes(services))
    failures.register(app)
    access.register(app)
    return app
