"""Pictures that clients send: as data URIs, as base64, or, where the operator allows it, as an address. Pure.

An address is never fetched here: it goes to the model's API, which fetches it from where it stands, so nothing
in this network is asked (the CLI hands it on as it is; seen with 2.1.329).
"""

import base64
import re
from urllib.parse import urlsplit

from core.errors import InvalidRequest
from core.run import Image

MAX_CHARACTERS = 5 * 1024 * 1024
"""The most base64 that a picture may have. The CLI makes a larger one smaller when it is new, but refuses it in an
earlier turn (seen with 2.1.329): a chat would end with its second question."""

_SIGNATURES = {
    rb"\x89PNG\r\n\x1a\n": "image/png",
    rb"\xff\xd8\xff": "image/jpeg",
    rb"GIF8[79]a": "image/gif",
    rb"RIFF....WEBP": "image/webp",
}
_ADDRESS = re.compile(r"https?://[!-~]{1,2000}", re.IGNORECASE)
_EXAMPLE = "data:image/png;base64,…"


def from_url(url: str, where: str, *, addresses_allowed: bool) -> Image:
    """The picture of a data URI, or at an address. Raises `InvalidRequest` that names `where`."""
    if url[:5].lower() == "data:":
        head, comma, data = url.partition(",")
        if not comma or not re.fullmatch(r"data:image/[^,]+;base64", head, re.IGNORECASE):
            raise _wrong(where, f"expected a data URI of a picture in base64, {_EXAMPLE}")
        return from_base64(data, where)
    if not addresses_allowed:
        raise _wrong(
            where, f"this server takes no addresses of pictures (HEARTLINE_IMAGE_URLS); send the picture: {_EXAMPLE}"
        )
    if not _is_address(url):
        raise _wrong(where, f"expected {_EXAMPLE}, or an http or https address without a name and password in it")
    return Image(url=url)


def from_base64(data: str, where: str) -> Image:
    """The picture that these characters stand for. What kind it is its own bytes say: clients get that wrong.

    Raises `InvalidRequest` that names `where`.
    """
    if len(data) > MAX_CHARACTERS:
        raise _wrong(
            where, f"the picture has {len(data)} characters of base64; a model takes {MAX_CHARACTERS}. Make it smaller"
        )
    try:
        content = base64.b64decode(data, validate=True)
    except ValueError:
        raise _wrong(where, "the picture is not valid base64") from None
    for signature, media_type in _SIGNATURES.items():
        if re.match(signature, content, re.DOTALL):
            return Image(media_type=media_type, data=data)
    raise _wrong(where, "expected a PNG, JPEG, GIF or WebP picture" + ("" if content else "; it is empty"))


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        whole = _ADDRESS.fullmatch(url) and parts.hostname and parts.port != 0
        return bool(whole) and "@" not in parts.netloc and "\\" not in url
    except ValueError:  # a port or an IPv6 address that is none
        return False


def _wrong(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
