"""The pages: what runs on this server, the runs of one key, and one run."""

import time
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, g, make_response, render_template, send_from_directory

from app.auth import whose
from app.pages import secured, sorry, visitors
from app.pages.words import WORDS
from app.services import Services
from core.errors import HeartlineError
from core.run import Image, Message, Run, RunRequest

MAX_SHOWN_CHARACTERS = 64 * 1024
MAX_SHOWN_BASE64 = 512 * 1024
PICTURES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def routes(services: Services) -> Blueprint:
    blueprint = Blueprint("pages", __name__, template_folder="templates")
    visitors.routes(services, blueprint)
    logged_in = visitors.logged_in(services)
    blueprint.after_request(secured)
    language = services.settings.language
    blueprint.app_context_processor(lambda: {"language": language, "words": WORDS[language]})

    @blueprint.get("/")
    @logged_in
    def home() -> Response:
        return page("operator.html" if g.operator else "owner.html")

    @blueprint.get("/runs")
    @logged_in
    def own_runs() -> Response:
        return page("owner.html")

    @blueprint.get("/runs/<run_id>")
    @logged_in
    def run(run_id: str) -> Response:
        found = services.runs.get(run_id, whose())
        return page("run.html", run=found, now=time.time(), **conversation(found, services.runs.request(found.id)))

    @blueprint.get("/static/<path:name>")
    def static(name: str) -> Response:
        return send_from_directory(f"{blueprint.root_path}/static", name)

    @blueprint.errorhandler(HeartlineError)
    def failed(error: HeartlineError) -> Response:
        return sorry(error)

    def page(name: str, **values: Any) -> Response:
        return make_response(render_template(name, owner=g.owner, operator=g.operator, **values))

    return blueprint


@dataclass(frozen=True)
class Picture:
    """A picture as a page shows it: by itself when it may, else in words."""

    source: str
    words: str

    @classmethod
    def of(cls, image: Image) -> "Picture":
        if image.url:
            return cls("", f"picture at {image.url}")  # to fetch it would tell its server who looks
        if image.media_type in PICTURES and len(image.data) <= MAX_SHOWN_BASE64:
            return cls(f"data:{image.media_type};base64,{image.data}", "picture")
        return cls("", f"{image.media_type}, {len(image.data) * 3 // 4 // 1024} kB")


@dataclass(frozen=True)
class Said:
    """What one message of a conversation looks like."""

    role: str
    text: str
    cut: bool
    pictures: list[Picture]

    @classmethod
    def of(cls, message: Message) -> "Said":
        role = "tool" if message.tool else message.role
        text = message.text[:MAX_SHOWN_CHARACTERS]
        return cls(role, text, len(text) < len(message.text), [Picture.of(image) for image in message.images])


def conversation(run: Run, request: RunRequest) -> dict[str, Any]:
    """What was said before the question, the question itself, and the run that it follows."""
    asked = list(request.prompt)
    earlier = list(request.history)
    if request.continues and earlier:
        asked = []  # only says "go on"; the answer that it goes on with is the last one
    return {
        "earlier": [Said.of(message) for message in earlier],
        "question": [Said.of(message) for message in asked],
        "parent": run.place.parent if run.place else None,
    }
