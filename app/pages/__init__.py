"""What people look at in a browser: plain HTML, style sheets and small modules, without a build step.

Whatever a user, a model or a tool has said is text here: templates escape it, scripts set `textContent` only, and the
content-security policy lets nothing run that is not a file of ours.
"""

from flask import Response, g, make_response, render_template

from app import failures
from core.errors import HeartlineError

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "connect-src": "'self'",
    "img-src": "'self' data:",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
"""https://www.w3.org/TR/CSP3/"""


def secured(response: Response, policy: dict[str, str] = POLICY) -> Response:
    """The same response with what a browser must know to keep it safe; nobody else is to keep what it shows."""
    response.headers["Content-Security-Policy"] = "; ".join(f"{name} {sources}" for name, sources in policy.items())
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"  # with `no-referrer`, a form's Origin would be `null`
    response.headers["X-Frame-Options"] = "DENY"
    if "Cache-Control" not in response.headers:
        response.headers["Cache-Control"] = "no-store"
    return response


def sorry(error: HeartlineError) -> Response:
    """The error as a page, for whoever is logged in; anybody else gets it as the API tells it."""
    if "owner" not in g:
        return failures.response(error)
    page = render_template("error.html", owner=g.owner, operator=g.operator, message=error.message)
    return secured(make_response(page, error.status))
