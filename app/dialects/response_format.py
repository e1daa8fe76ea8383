"""OpenAI's `response_format`: the form that the whole answer must have.

https://platform.openai.com/docs/guides/structured-outputs
"""

from typing import Any

import msgspec

from core.errors import InvalidRequest

MAX_BYTES = 64 * 1024
"""A schema reaches the CLI as an argument, of which Linux takes 128 KiB."""

ANY_OBJECT = '{"type":"object"}'


def schema_of(response_format: Any) -> str:
    """The JSON schema that the answer must follow, as JSON text; nothing when it is to be text.

    Raises `InvalidRequest`, naming the field.
    """
    match response_format:
        case None | {"type": "text"}:
            return ""
        case {"type": "json_object"}:
            return ANY_OBJECT
        case {"type": "json_schema", "json_schema": {"schema": {"type": "object"} as schema}}:
            return _written(schema)
        case {"type": "json_schema", "json_schema": {"schema": {}}}:
            raise _wrong("response_format.json_schema.schema.type", "expected 'object': an answer in JSON is an object")
        case {"type": "json_schema"}:
            raise _wrong("response_format.json_schema.schema", "expected a JSON schema, which is an object")
    raise _wrong("response_format", "expected an object with the type 'text', 'json_object' or 'json_schema'")


def _written(schema: dict[str, Any]) -> str:
    """As compact text, without the root's `$schema`: the CLI refuses the draft that some libraries name there,
    and reads every schema as draft 7 (seen with 2.1.329)."""
    where = "response_format.json_schema.schema"
    try:
        text = msgspec.json.encode({key: value for key, value in schema.items() if key != "$schema"}).decode()
    except RecursionError:
        raise _wrong(where, "it is nested too deeply") from None
    if len(text.encode()) > MAX_BYTES:
        raise _wrong(where, f"expected at most {MAX_BYTES} bytes; it has {len(text.encode())}")
    return text


def _wrong(where: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {why}.", param=where)
