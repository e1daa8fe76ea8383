"""Pictures that clients send: taken as they are, or refused by their place."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.images import MAX_CHARACTERS, from_base64, from_url
from core.errors import InvalidRequest
from core.run import Image

SIGNATURES = {
    "image/png": b"\x89PNG\r\n\x1a\n",
    "image/jpeg": b"\xff\xd8\xff",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\n\0\n\0WEBP",
}
WHERE = "messages[0].content[1].image_url.url"


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


PNG = encoded(SIGNATURES["image/png"])


def refused(url: str, *, addresses_allowed: bool = True) -> str:
    with pytest.raises(InvalidRequest) as caught:
        from_url(url, WHERE, addresses_allowed=addresses_allowed)
    assert caught.value.param == WHERE
    assert caught.value.message.startswith(f"{WHERE}: ")
    assert len(caught.value.message) < 250
    return caught.value.message


@pytest.mark.parametrize("media_type", SIGNATURES)
@given(rest=st.binary(max_size=50))
def test_any_picture_is_taken_as_it_is(media_type: str, rest: bytes) -> None:
    data = encoded(SIGNATURES[media_type] + rest)
    assert from_url(f"data:{media_type};base64,{data}", WHERE, addresses_allowed=False) == Image(media_type, data)
    assert from_base64(data, WHERE) == Image(media_type, data)


@pytest.mark.parametrize("head", ["data:image/jpeg;base64", "DATA:image/jpg;name=a.jpg;BASE64", "data:image/*;base64"])
def test_the_bytes_say_what_kind_it_is(head: str) -> None:
    assert from_url(f"{head},{PNG}", WHERE, addresses_allowed=False).media_type == "image/png"


@pytest.mark.parametrize(
    "url",
    [
        "data:",
        "data:,",
        f"data:{PNG}",
        f"data:;base64,{PNG}",
        f"data:image/png,{PNG}",
        f"data:text/plain;base64,{PNG}",
        f"data:application/pdf;base64,{PNG}",
        "data:image/png;base64,",
        "data:image/png;base64,=",
        f"data:image/png;base64,{PNG[:-1]}",
        f"data:image/png;base64,{PNG}A",
        f"data:image/png;base64,{PNG}\n",
        f"data:image/png;base64, {PNG}",
        f"data:image/png;base64,{PNG[:4]}-_{PNG[6:]}",
        "data:image/png;base64,äöü=",
        f"data:image/svg+xml;base64,{encoded(b'<svg/>')}",
        f"data:image/bmp;base64,{encoded(b'BM')}",
        f"data:image/webp;base64,{encoded(b'RIFF0000WAVE')}",
        f"data:image/png;base64,{encoded(b'no picture')}",
        f"data:image/png;base64,{encoded(b'x' + SIGNATURES['image/png'])}",
    ],
)
def test_what_is_no_picture_is_refused(url: str) -> None:
    refused(url)


def test_a_picture_that_would_break_the_next_turn_is_refused() -> None:
    content = SIGNATURES["image/png"].ljust(MAX_CHARACTERS // 4 * 3)
    assert len(from_base64(encoded(content), WHERE).data) == MAX_CHARACTERS
    assert str(MAX_CHARACTERS) in refused(f"data:image/png;base64,{encoded(content + b' ')}")


@pytest.mark.parametrize(
    "url",
    [
        "https://pictures.example/a.png",
        "http://pictures.example:8080/a.png?size=1&key=%20#top",
        "HTTPS://[2001:db8::1]/a",
    ],
)
def test_an_address_is_handed_on_as_it_is_where_it_is_allowed(url: str) -> None:
    assert from_url(url, WHERE, addresses_allowed=True) == Image(url=url)
    assert "HEARTLINE_IMAGE_URLS" in refused(url, addresses_allowed=False)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a.png",
        "//pictures.example/a.png",
        "ftp://pictures.example/a.png",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "blob:https://pictures.example/1",
        " https://pictures.example/a.png",
        "https://pictures.example/a b.png",
        "https://pictures.example/ä.png",
        "https://pictures.example/\r\nX: y",
        "https://",
        "https:///a.png",
        "https://:443/a.png",
        "https://user@pictures.example/a.png",
        "https://user:password@pictures.example/a.png",
        "https://@pictures.example/a.png",
        "https://pictures.example\\@other.example/a.png",
        "https://pictures.example:0/a.png",
        "https://pictures.example:99999/a.png",
        "https://pictures.example:x/a.png",
        "https://[::1/a.png",
        "https://pictures.example/" + "a" * 2000,
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    refused(url)
    refused(url, addresses_allowed=False)
