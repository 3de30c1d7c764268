"""W1–W7: what is asked, how much of it at a time, and which figures a run is judged by.

W1–W5 are single questions; W6 is a conversation of ``TURNS`` questions about one picture, whose
first turn is not counted in its TTFT; W7 mixes text and pictures of several sizes and arrives at
random moments. ``CAPACITY`` is W7's mix as fast as a server takes it: from it W7 gets its rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

TURNS = 5
SHARE_OF_CAPACITY = 0.7


class Pictures(StrEnum):
    """What the requests of a run look at."""

    NONE = "none"
    EACH = "one each"
    SAME = "the same one"
    TALK = "one a conversation"
    MIXED = "none, or one of several sizes"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a run, by its name in the record. ``scale`` takes it to ``unit``."""

    name: str
    label: str
    unit: str
    scale: float = 1.0
    higher_is_better: bool = False


TTFT = Figure("ttft", "TTFT", "ms", 1000)
TTFT_P90 = Figure("ttft_p90", "TTFT, 90th percentile", "ms", 1000)
E2E = Figure("e2e", "end to end", "ms", 1000)
TPOT = Figure("tpot", "TPOT", "ms", 1000)
REQUESTS = Figure("requests_per_second", "requests", "1/s", higher_is_better=True)
TOKENS = Figure("tokens_per_second", "output tokens", "1/s", higher_is_better=True)


@dataclass(frozen=True, slots=True)
class Workload:
    """``requests`` of a run; ``concurrency`` None: at random moments, at ``rate`` a second."""

    name: str
    title: str
    pictures: Pictures
    requests: int
    concurrency: int | None
    tokens: int
    figures: tuple[Figure, ...]
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.pictures is Pictures.TALK and self.requests % TURNS:
            raise ValueError(f"{self.name}: {self.requests} requests are no whole conversations")

    @property
    def open_loop(self) -> bool:
        """True if requests do not wait for each other."""
        return self.concurrency is None

    def counted(self, index: int) -> bool:
        """True if request ``index`` counts in the TTFT: of a conversation, not the first turn."""
        return self.pictures is not Pictures.TALK or index % TURNS > 0


LATENCY = (TTFT, E2E, TPOT)
WORKLOADS = {
    each.name: each
    for each in (
        Workload("W1", "one image, one at a time", Pictures.EACH, 8, 1, 16, LATENCY),
        Workload("W2", "images, eight at a time", Pictures.EACH, 32, 8, 16, (REQUESTS, TTFT)),
        Workload("W3", "longer answers", Pictures.EACH, 16, 8, 128, (TOKENS, TTFT, TPOT)),
        Workload("W4", "questions about one image", Pictures.SAME, 16, 4, 16, (REQUESTS, TTFT)),
        Workload("W5", "text only", Pictures.NONE, 32, 8, 64, (TOKENS, TTFT)),
        Workload("W6", "a conversation", Pictures.TALK, 10, 1, 16, (TTFT, E2E)),
        Workload("W7", "mixed, open loop", Pictures.MIXED, 24, None, 16, (TTFT, TTFT_P90, E2E)),
    )
}
CAPACITY = Workload("capacity", "W7's mix, closed loop", Pictures.MIXED, 16, 8, 16, (REQUESTS,))


def sized(names: list[str], requests: Mapping[str, int]) -> list[Workload]:
    """The workloads of ``names``, some with other numbers of requests. Raises KeyError."""
    chosen = [WORKLOADS[name] for name in names]
    return [replace(each, requests=requests.get(each.name, each.requests)) for each in chosen]
