"""What arrives over HTTP: bodies of bounded size, JSON and forms, each checked; and errors with the status that they are answered with."""

import asyncio
from collections.abc import Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

MAX_BODY_BYTES = 4 << 20
BODY_SECONDS = 30.0  # for a body to arrive
MAX_FIELDS = 20  # of a form
RETRY_AFTER = 2  # seconds after which a request that was refused for want of room may come again
JSON, FORM = "application/json", "application/x-www-form-urlencoded"

T = TypeVar("T")


class RequestError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: Of HTTP.
        message: One line: what was expected, and what was found.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, " ".join(message.split())


async def read_body(
    request: Request, *, media_types: Sequence[str], max_bytes: int = MAX_BODY_BYTES, seconds: float = BODY_SECONDS
) -> bytes:
    """The body of a request.

    Args:
        request: The request.
        media_types: One of them must be its Content-Type.
        max_bytes: The longest body that is read.
        seconds: How long it may take to arrive.

    Raises:
        RequestError: The body is longer (413), slower (408), or of another type (415).
    """
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip() not in media_types:
        wanted = " or ".join(media_types)
        raise RequestError(415, f"expected a body with Content-Type {wanted}, found {given[:80] or 'none'}")
    too_long = RequestError(413, f"expected a body of at most {max_bytes:,} bytes; split the batch")
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise too_long
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    raise too_long
    except TimeoutError:
        raise RequestError(408, f"expected the whole body within {seconds:g} seconds") from None
    except ClientDisconnect:
        raise RequestError(400, "the client closed the connection before the body was complete") from None
    return bytes(body)


def json_value(text: str | bytes) -> Any:
    """A JSON value. Raises RequestError (400) for what is none, is nested too deeply, or is no Unicode text."""
    try:
        return from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, f"expected JSON, found an error: {error}") from None


def validated(adapter: TypeAdapter[T], value: Any, what: str) -> T:
    """A value of JSON as an object of ours.

    Args:
        adapter: Of the object's type.
        value: The value.
        what: What the value is, for the message.

    Raises:
        RequestError: It is something else (400).
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"]))[:120]
        raise RequestError(
            400, f"{what}: {first['msg']}{f' at {place}' if place else ''}, found {first['input']!r:.80}"
        ) from None


def parse_form(body: bytes) -> dict[str, str]:
    """The fields of a form, the last of each name. Raises RequestError (400) for bytes that are no UTF-8, or too many fields."""
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError as error:  # UnicodeDecodeError is one
        raise RequestError(
            400, f"expected a form in UTF-8 of at most {MAX_FIELDS} fields, found an error: {error}"
        ) from None
    return dict(fields)


def service_address(request: Request, public_url: str | None) -> str:
    """The address at which clients find the service, without a slash at its end.

    Args:
        request: A request, whose host is used unless the address is stated.
        public_url: The address, where the service stands behind another one.
    """
    return (public_url or str(request.base_url)).rstrip("/")


def whole_number(text: str | None, name: str, *, default: int, least: int, most: int) -> int:
    """A number in a URL.

    Args:
        text: As it is given; None or blank for the default.
        name: Of the parameter.
        default: Where none is given.
        least: The smallest that is taken.
        most: What larger ones become.

    Raises:
        RequestError: It is no whole number, or is too small (400).
    """
    if text is None or not text.strip():
        return default
    if not text.strip().isdecimal() or len(text) > 9 or int(text) < least:
        raise RequestError(400, f"expected {name} to be a whole number of at least {least}, found '{text[:40]}'")
    return min(int(text), most)
