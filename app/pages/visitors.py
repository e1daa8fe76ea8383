"""Who looks at a page: the login page, the cookie, and the way to the login for whoever has none."""

import functools
import logging
import os
import re
from collections.abc import Callable
from typing import ParamSpec
from urllib.parse import quote

from flask import Blueprint, Response, g, make_response, redirect, render_template, request

from app.auth import COOKIE, is_from_here, owner_by_login
from app.services import Services
from core.errors import ForeignOrigin
from core.logins import new_token
from core.sentences import sentence

logger = logging.getLogger(__name__)

HOME = "/"
_PAGE = re.compile(r"/[\w./-]*", re.ASCII)

P = ParamSpec("P")


def routes(services: Services, blueprint: Blueprint) -> None:
    """Adds login and logout to the pages."""
    keys, logins, settings = services.api_keys, services.logins, services.settings

    @blueprint.get("/login")
    def login() -> Response:
        wanted = page_of(request.args.get("next", ""))
        if owner_by_login(keys, logins):
            return _to(wanted)
        return make_response(render_template("login.html", next=wanted, problem=""))

    @blueprint.post("/login")
    def take_key() -> Response:
        wanted, address = page_of(request.form.get("next", "")), client_address()
        if not is_from_here(request):
            return refused(wanted, "foreign_login", 403)
        if not logins.may_try(address):
            return refused(wanted, "too_many_logins", 429)
        owner = keys.owner(request.form.get("key", "").strip())
        if owner is None:
            logins.failed(address)
            logger.warning("login_refused address=%s", address)
            return refused(wanted, "wrong_key", 401)
        token = new_token()
        logins.begin(token, keys.login(owner, token))
        logger.info("login owner=%s", owner)
        response = _to(wanted)
        response.set_cookie(
            COOKIE,
            token,
            max_age=settings.login_ttl_seconds,
            httponly=True,
            samesite="Strict",
            secure=request.is_secure,  # gunicorn says so, also for a proxy that it trusts (FORWARDED_ALLOW_IPS)
        )
        return response

    @blueprint.post("/logout")
    def logout() -> Response:
        if not is_from_here(request):
            raise ForeignOrigin
        if token := request.cookies.get(COOKIE):
            logins.end(token)
        response = _to("/login")
        response.delete_cookie(COOKIE, httponly=True, samesite="Strict", secure=request.is_secure)
        return response

    def refused(wanted: str, problem: str, status: int) -> Response:
        page = render_template("login.html", next=wanted, problem=sentence(settings.language, problem))
        response = make_response(page, status)
        if status == 429:
            response.headers["Retry-After"] = "60"
        return response


def logged_in(services: Services) -> Callable[[Callable[P, Response]], Callable[P, Response]]:
    """Decorator: the page is shown to whoever is logged in, who is in `g.owner`; all others are led to the login."""

    def decorate(view: Callable[P, Response]) -> Callable[P, Response]:
        @functools.wraps(view)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> Response:
            owner = owner_by_login(services.api_keys, services.logins)
            if owner is None:
                return _to(f"/login?next={quote(request.path)}")
            g.owner, g.operator = owner, services.api_keys.is_operator(owner)
            return view(*args, **kwargs)

        return guarded

    return decorate


def page_of(wanted: str) -> str:
    """The page of ours that is meant, or the first one: nobody is led to another server from here."""
    return wanted if _PAGE.fullmatch(wanted) and "//" not in wanted else HOME


def client_address() -> str:
    """Where the request comes from; of a proxy only where gunicorn, too, believes what it says."""
    address = request.remote_addr or ""
    trusted = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1,::1").split(",")
    forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()[:64]
    return forwarded if forwarded and (address in trusted or "*" in trusted) else address


def _to(path: str) -> Response:
    return make_response(redirect(path, 303))
