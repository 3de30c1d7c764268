"""What clients send: questions about drawn pictures with mixed exits, and every kind of mistake.

Pictures and questions are the demo's test split, encoded once; the seed of a mix repeats it.
"""

from __future__ import annotations

import base64
import functools
import io
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from dyvte.demo.dataset import samples

POOL = 48
TIMEOUT_S = 120.0
Json = dict[str, Any]


@functools.lru_cache(maxsize=1)
def asked() -> tuple[tuple[str, str], ...]:
    """(data URL of a picture, question about it)."""
    return tuple((_url(sample.picture), sample.question) for sample in samples(POOL))


def _url(picture: Any) -> str:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request; ``exits`` is its ``dyvte`` object, ``extra`` replaces body keys."""

    images: int = 1
    exits: Mapping[str, Any] | None = None
    tokens: int = 8
    extra: Mapping[str, Any] = field(default_factory=dict)

    def body(self, draw: random.Random) -> Json:
        """A request of this kind about drawn pictures."""
        chosen = draw.sample(asked(), max(1, self.images))
        content: list[Json] = [
            {"type": "image_url", "image_url": {"url": url}} for url, _ in chosen[: self.images]
        ]
        content.append({"type": "text", "text": chosen[-1][1]})
        made: Json = {
            "model": "demo",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.tokens,
            "temperature": 0,
        }
        if self.exits is not None:
            made["dyvte"] = dict(self.exits)
        return made | dict(self.extra)


NOTHING = "data:image/png;base64,bm90IGEgcGljdHVyZQ=="
DEFAULT = Kind()
OFF = Kind(exits={"policy": "off"})
FIXED = Kind(exits={"policy": "fixed", "exit_layer": 5})
STATE = Kind(exits={"policy": "state"})
PRUNED = Kind(exits={"policy": "off", "prune": {"method": "fastv", "layer": 3, "ratio": 0.5}})
TEXT = Kind(images=0)
TWO = Kind(images=2, exits={"policy": "fixed", "exit_layer": 6})
EAGER = Kind(exits={"aggressiveness": 1.0})
LATE = Kind(exits={"policy": "fixed", "exit_layer": 10}, tokens=1)
OFF_TEXT = Kind(images=0, exits={"policy": "off"}, tokens=1)
LONG = Kind(images=0, tokens=1500, extra={"ignore_eos": True})

UNKNOWN_MODEL = Kind(images=0, extra={"model": "nobody"})
BAD_OPTION = Kind(images=0, exits={"policy": "fixed"})
BROKEN = Kind(
    extra={
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": NOTHING}}]}
        ]
    }
)

# One burst of traffic that nobody should be woken by; mistakes of single clients included.
HEALTHY = (
    *(DEFAULT,) * 8,
    *(OFF,) * 4,
    *(FIXED,) * 3,
    *(PRUNED, TWO, TEXT, TEXT),
    UNKNOWN_MODEL,
    BAD_OPTION,
)


class Clients:
    """A few clients at once against one server; counts what came back by status."""

    def __init__(self, url: str, workers: int, seed: int = 0) -> None:
        self._url = f"{url}/v1/chat/completions"
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(workers)
        self._client = httpx.Client(timeout=TIMEOUT_S, limits=httpx.Limits(max_connections=None))
        self.statuses: dict[int, int] = {}

    def send(self, kind: Kind) -> Future[int]:
        """One request when a client is free; its status."""
        with self._lock:
            body = kind.body(self._draw)
        return self._pool.submit(self._post, body)

    def send_all(self, kinds: Sequence[Kind]) -> list[int]:
        """Many; returns when each has its answer."""
        return [sent.result() for sent in [self.send(kind) for kind in kinds]]

    def keep(self, mix: Sequence[Kind], rest: float, going: Callable[[], bool]) -> None:
        """Bursts of the mix, shuffled, with a rest after each, as long as ``going``."""
        while going():
            burst = list(mix)
            self._draw.shuffle(burst)
            self.send_all(burst)
            threading.Event().wait(rest)

    def close(self) -> None:
        """Hang up."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def _post(self, body: Json) -> int:
        try:
            status = self._client.post(self._url, json=body).status_code
        except (httpx.HTTPError, RuntimeError):
            status = 0  # the server went away, or we hung up
        with self._lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
        return status
