"""The text of an answer → its tool calls, as it grows.

Text outside calls is passed on at once; what may be the beginning of a call is held back. The
arguments of a call are passed on as they come. What only looks like a call (no JSON, an unknown
name) is text after all.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

from dyvte.tools import CLOSING, OPENING

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"arguments"\s*:\s*(?=\{)')


@dataclass(frozen=True, slots=True)
class CallPart:
    """A piece of call ``index``: its first piece brings the name, all of them arguments."""

    index: int
    name: str | None = None
    arguments: str = ""


Part = str | CallPart


class _State(Enum):
    START = 0  # of an answer whose calls come first or not at all
    TEXT = 1
    HEAD = 2  # behind the opening, before the arguments
    ARGUMENTS = 3
    TAIL = 4  # behind the arguments, before the closing
    PLAIN = 5  # text to the end


class ToolCallReader:
    """Reads one choice. ``calls`` counts the calls that have begun.

    ``calls_lead``: where the answer does not begin with a call, all of it is text.
    """

    def __init__(self, names: Collection[str], calls_lead: bool = False) -> None:
        self._names = names
        self._held = ""
        self._state = _State.START if calls_lead else _State.TEXT
        self._depth = 0
        self._quoted = self._escaped = False
        self.calls = 0

    def push(self, text: str) -> list[Part]:
        """What ``text`` adds, in order."""
        self._held += text
        parts: list[Part] = []
        while self._step(parts):
            pass
        return [part for part in parts if part]

    def flush(self) -> list[Part]:
        """The answer is over: what was held back is text."""
        rest, self._held = self._held, ""
        if self._state is _State.HEAD:
            rest = OPENING + rest
        elif self._state in (_State.ARGUMENTS, _State.TAIL):
            rest = ""
        self._state = _State.TEXT
        return [rest] if rest.strip() or (rest and not self.calls) else []

    def _step(self, parts: list[Part]) -> bool:
        """One transition; False if more text is needed."""
        return {
            _State.START: self._start,
            _State.PLAIN: self._plain,
            _State.TEXT: self._text,
            _State.HEAD: self._head,
            _State.ARGUMENTS: self._arguments,
            _State.TAIL: self._tail,
        }[self._state](parts)

    def _start(self, parts: list[Part]) -> bool:
        begun = self._held.lstrip()[: len(OPENING)]
        if OPENING.startswith(begun) and begun != OPENING:
            return False
        self._state = _State.TEXT if begun == OPENING else _State.PLAIN
        return True

    def _plain(self, parts: list[Part]) -> bool:
        parts.append(self._held)
        self._held = ""
        return False

    def _text(self, parts: list[Part]) -> bool:
        at = self._held.find(OPENING)
        if at < 0:
            keep = _held_back(self._held, OPENING)
            self._say(parts, self._held[: len(self._held) - keep])
            self._held = self._held[len(self._held) - keep :]
            return False
        self._say(parts, self._held[:at].rstrip())
        self._held = self._held[at + len(OPENING) :]
        self._state = _State.HEAD
        return True

    def _say(self, parts: list[Part], text: str) -> None:
        """Between calls and before them white space is layout, not text."""
        if text.strip() or (text and not self.calls):
            parts.append(text)

    def _head(self, parts: list[Part]) -> bool:
        match = _HEAD.match(self._held)
        if match is not None:
            name = json.loads(match[1])
            if name in self._names:
                parts.append(self._begin(name))
                self._held = self._held[match.end() :]
                self._state, self._depth = _State.ARGUMENTS, 0
                return True
        end = self._held.find(CLOSING)
        if end < 0:
            return False
        body, self._held = self._held[:end], self._held[end + len(CLOSING) :]
        parts.append(self._whole(body))
        self._state = _State.TEXT
        return True

    def _begin(self, name: str, arguments: str = "") -> CallPart:
        self.calls += 1
        return CallPart(self.calls - 1, name, arguments)

    def _whole(self, body: str) -> Part:
        """A call whose keys stand in another order, or no call."""
        try:
            call = json.loads(body)
            name, arguments = call["name"], call["arguments"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return OPENING + body + CLOSING
        if name not in self._names or not isinstance(arguments, dict):
            return OPENING + body + CLOSING
        return self._begin(name, json.dumps(arguments, ensure_ascii=False))

    def _arguments(self, parts: list[Part]) -> bool:
        for at, char in enumerate(self._held):
            if self._ends(char):
                parts.append(CallPart(self.calls - 1, None, self._held[: at + 1]))
                self._held = self._held[at + 1 :]
                self._state = _State.TAIL
                return True
        if self._held:
            parts.append(CallPart(self.calls - 1, None, self._held))
            self._held = ""
        return False

    def _ends(self, char: str) -> bool:
        """True at the brace that closes the arguments."""
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif char == "\\":
                self._escaped = True
            elif char == '"':
                self._quoted = False
            return False
        if char == '"':
            self._quoted = True
        self._depth += (char in "{[") - (char in "}]")
        return self._depth == 0 and char in "}]"

    def _tail(self, parts: list[Part]) -> bool:
        at = self._held.find(CLOSING)
        if at < 0:
            self._held = self._held[-len(CLOSING) :]
            return False
        self._held = self._held[at + len(CLOSING) :]
        self._state = _State.TEXT
        return True


def _held_back(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that may begin ``mark``, white space before it too."""
    size = next(
        (k for k in range(min(len(mark) - 1, len(text)), 0, -1) if text.endswith(mark[:k])), 0
    )
    return len(text) - len(text[: len(text) - size].rstrip())
