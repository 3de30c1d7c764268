"""What a client of ``/v1/responses`` calls a field that an error names in a chat's words.

The way from a chat request on is shared, and with it the place where an error is found; only its
name is another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from server.api.errors import ApiError

FIELDS = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
}
_QUOTED = re.compile(r"'([^']+)'")


class Names:
    """Paths of a chat request → paths of the request that it was made from."""

    def __init__(self) -> None:
        self._own = dict(FIELDS)

    def add(self, chat: str, own: str) -> None:
        """What is at ``chat`` and below came from ``own``."""
        self._own[chat] = own

    def of(self, path: str) -> str:
        """The client's path; the longest part of ``path`` that has another name is replaced."""
        end = len(path)
        while end > 0:
            own = self._own.get(path[:end])
            if own is not None:
                return own + path[end:]
            end = max(path.rfind(".", 0, end), path.rfind("[", 0, end))
        return path

    @contextmanager
    def told(self) -> Iterator[None]:
        """An ApiError that is raised inside leaves in the client's words."""
        try:
            yield
        except ApiError as error:
            raise self._renamed(error) from error

    def _renamed(self, error: ApiError) -> ApiError:
        detail = error.detail
        param = detail["param"]
        if param is None or (own := self.of(param)) == param:
            return error
        message = _QUOTED.sub(lambda quoted: f"'{self.of(quoted[1])}'", detail["message"])
        kind, code = detail["type"], detail["code"]
        headers = error.headers
        return ApiError(error.status, message, kind=kind, param=own, code=code, headers=headers)
