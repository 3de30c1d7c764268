"""Token ids of one choice → text, piece by piece.

Holds back what may still change: bytes of an unfinished UTF-8 character, and text that may be
the beginning of a stop string. The pieces joined equal the bytes joined and decoded at once
(invalid ones as U+FFFD), up to the stop string. Work per token is linear in what it adds.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from dataclasses import dataclass

from dyvte.engine.events import TokenLogprobs


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token whose text has been given out, for ``logprobs.content``."""

    token_id: int
    logprobs: TokenLogprobs


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is final, the tokens whose text has begun to appear, and whether this is all."""

    text: str = ""
    tokens: tuple[ShownToken, ...] = ()
    stopped: bool = False


class Detokenizer:
    """The text of one choice as it grows.

    ``min_tokens``: stop strings count only in what comes after that many tokens.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        stop: tuple[str, ...] = (),
        min_tokens: int = 0,
        strip_leading_space: bool = False,
    ) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stop = stop
        self._min_tokens = min_tokens
        self._strip = strip_leading_space
        self._held = ""  # decoded, not given out
        self._given = 0  # characters given out
        self._waiting: list[tuple[int, ShownToken]] = []  # (where its text starts, token)
        self.num_tokens = 0
        self.stopped = False

    def push(self, token_id: int, logprobs: TokenLogprobs | None = None) -> Piece:
        """Add a token. After a stop string nothing more may be pushed."""
        assert not self.stopped, "a stopped choice takes no more tokens"
        self.num_tokens += 1
        if logprobs is not None:
            start = self._given + len(self._held)
            self._waiting.append((start, ShownToken(token_id, logprobs)))
        self._append(self._decoder.decode(self._token_bytes(token_id)))
        if self.num_tokens <= self._min_tokens:
            return self._give(len(self._held))
        cut = self._find_stop()
        if cut is not None:
            return self._end(cut)
        return self._give(len(self._held) - self._maybe_stop())

    def flush(self) -> Piece:
        """The choice ended without a stop string: everything held, broken bytes as U+FFFD."""
        self._append(self._decoder.decode(b"", final=True))
        piece = self._give(len(self._held))
        rest = tuple(token for _, token in self._waiting)
        self._waiting.clear()
        return Piece(piece.text, piece.tokens + rest)

    def _append(self, text: str) -> None:
        if self._strip and text:
            text = text.removeprefix(" ")
            self._strip = False
        self._held += text

    def _find_stop(self) -> int | None:
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        return min(found, default=None)

    def _maybe_stop(self) -> int:
        """Length of the longest end of the held text that a stop string begins with."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(self._held)), longest, -1):
                if self._held.endswith(stop[:size]):
                    longest = size
                    break
        return longest

    def _give(self, size: int) -> Piece:
        text, self._held = self._held[:size], self._held[size:]
        self._given += size
        shown = 0
        while shown < len(self._waiting) and self._waiting[shown][0] < self._given:
            shown += 1
        tokens = tuple(token for _, token in self._waiting[:shown])
        del self._waiting[:shown]
        return Piece(text, tokens)

    def _end(self, cut: int) -> Piece:
        """Give out what stands before the stop string; its own tokens are not shown."""
        self.stopped = True
        piece = self._give(cut)
        self._held = ""
        self._waiting.clear()
        return Piece(piece.text, piece.tokens, stopped=True)
