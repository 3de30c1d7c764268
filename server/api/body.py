"""Bytes → JSON object, under limits that hold before anything is built from it.

``orjson`` refuses invalid UTF-8, NaN and more than 1024 levels; a count of the structural bytes
bounds how many values it may build, and a walk bounds the depth. A data URL has neither
brackets nor more than one comma, so that images do not eat into the budget.
"""

from __future__ import annotations

import orjson
from starlette.requests import ClientDisconnect, Request

from server.api.errors import bad_request

MAX_VALUES = 200_000
MAX_DEPTH = 32


class ClientGone(Exception):
    """The client closed the connection before its answer was ready."""


async def read_json(request: Request) -> dict[str, object]:
    """The body as a JSON object. Raises ApiError (400) or ClientGone."""
    media_type = request.headers.get("content-type", "application/json").split(";")[0].strip()
    if media_type.lower() not in ("application/json", ""):
        raise bad_request("The request body must be JSON (Content-Type: application/json).")
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise bad_request("The request body must not be compressed (Content-Encoding).")
    try:
        # Not request.body(): it would keep the bytes for as long as the answer takes.
        raw = b"".join([chunk async for chunk in request.stream()])
    except ClientDisconnect as gone:
        raise ClientGone from gone
    return parse_object(raw)


def parse_object(raw: bytes) -> dict[str, object]:
    """``raw`` as a JSON object. Raises ApiError."""
    if sum(raw.count(sign) for sign in (b",", b"[", b"{")) > MAX_VALUES:
        raise bad_request(f"The request body holds more than {MAX_VALUES} values.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise bad_request("The request body is not valid JSON in UTF-8.") from error
    if not isinstance(value, dict):
        raise bad_request("The request body must be a JSON object.")
    if _deeper_than(value, MAX_DEPTH):
        raise bad_request(f"The request body is nested deeper than {MAX_DEPTH} levels.")
    return value


def _deeper_than(value: object, limit: int) -> bool:
    level: list[object] = [value]
    for _ in range(limit):
        level = [child for item in level for child in _children(item)]
        if not level:
            return False
    return True


def _children(item: object) -> list[object]:
    if isinstance(item, dict):
        return [v for v in item.values() if isinstance(v, (dict, list))]
    if isinstance(item, list):
        return [v for v in item if isinstance(v, (dict, list))]
    return []
