"""Shadow runs: a share of the answers that an exit or pruning shaped, once more with neither.

A calibration holds for the traffic that it was measured on; shadows show whether it still does.
They run in the engine's thread, one at a time, and only while no request is there: one that
arrives ends the shadow at once, and it is tried again later or dropped. So no request shares a
step with a shadow, waits longer than a step for one, or hears of one. Only greedy answers are
compared: a sampled one differs for reasons of its own.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.engine.output import Emission
from dyvte.engine.sequence import RequestState
from dyvte.engine.stats import RequestStats, ShadowOutcome, ShadowStats
from dyvte.errors import OptionError
from dyvte.params import ExitOptions

log = logging.getLogger("dyvte.engine")


@dataclass(frozen=True, slots=True)
class ShadowConfig:
    """How many answers are checked: each is drawn with probability ``share``, from ``seed``.

    A drawn one waits for a quiet moment at most ``patience_s`` seconds in a line of at most
    ``most_pending``; what does not fit is dropped (and counted).
    """

    share: float = 0.0
    seed: int = 0
    patience_s: float = 60.0
    most_pending: int = 8

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise OptionError("shadow_share", f"must be between 0 and 1, not {self.share}")


@dataclass(slots=True)
class Shadow:
    """One drawn answer. ``sampled`` counts its hidden end token; ``flops`` all attempts so far."""

    request: EngineRequest
    policy: str
    answer: tuple[int, ...]
    sampled: int
    since: float
    flops: int = 0
    state: RequestState | None = None


class Shadows:
    """Draws, keeps the line, runs one at a time on ``core``, and tells each outcome once.

    Belongs to the engine's thread; ``running`` may be read from others.
    """

    def __init__(
        self,
        core: EngineCore,
        config: ShadowConfig,
        tell: Callable[[ShadowStats], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._core = core
        self._config = config
        self._tell = tell
        self._clock = clock
        self._draw = random.Random(config.seed)
        self._names = itertools.count()
        self._pending: deque[Shadow] = deque()
        self._now: Shadow | None = None
        self._closed = False

    @property
    def running(self) -> bool:
        """True while the core's only work is a shadow."""
        return self._now is not None

    @property
    def waiting(self) -> bool:
        """True if a quiet moment would be used."""
        return bool(self._pending)

    def offer(self, state: RequestState, stats: RequestStats) -> None:
        """A request has finished: draw, if its answer could have been another one."""
        if self._closed or not self._config.share or not _shortened(stats):
            return
        if self._draw.random() >= self._config.share:
            return
        first = state.choices[0]  # greedy choices are all the same
        answer = tuple(first.token_ids)
        drawn = Shadow(state.request, stats.policy, answer, first.sampled, self._clock())
        if not state.sampling.greedy:
            self._end(drawn, ShadowOutcome.SKIPPED)
        elif len(self._pending) >= self._config.most_pending:
            self._end(drawn, ShadowOutcome.DROPPED)
        else:
            self._pending.append(drawn)

    def start(self) -> None:
        """The core is idle: put the next drawn answer to it, if one is still fresh."""
        while self._pending and self._now is None:
            shadow = self._pending.popleft()
            if self._clock() - shadow.since > self._config.patience_s:
                self._end(shadow, ShadowOutcome.DROPPED)
                continue
            try:
                shadow.state = self._core.check(_without_exit(shadow, next(self._names)))
                self._core.add(shadow.state, background=True)
                self._now = shadow
            except Exception:
                log.exception("a shadow run could not begin")
                self._end(shadow, ShadowOutcome.DROPPED)

    def give_way(self) -> None:
        """A request has arrived: stop, return every page, and be first in the line again."""
        if self._now is not None:
            shadow, self._now = self._now, None
            self._stop(shadow)
            self._pending.appendleft(shadow)

    def take(self, emissions: Sequence[Emission]) -> list[Emission]:
        """Keep what was said about the shadow; return the rest. Compared by identity: a caller
        may have named a request anything."""
        shadow = self._now
        if shadow is None or shadow.state is None:
            return list(emissions)
        state = shadow.state
        mine = [each for each in emissions if each.state is state]
        if mine:
            self._compare(shadow, state, failed=any(each.error for each in mine))
        return [each for each in emissions if each.state is not state]

    def close(self) -> None:
        """Draw no more; what waits or runs is dropped."""
        self._closed = True
        self.give_way()
        while self._pending:
            self._end(self._pending.popleft(), ShadowOutcome.DROPPED)

    def _compare(self, shadow: Shadow, state: RequestState, failed: bool) -> None:
        """The first token that differs decides; all being equal, so does the end."""
        tokens = tuple(state.choices[0].token_ids)
        if failed:
            outcome = ShadowOutcome.DROPPED
        elif tokens != shadow.answer[: len(tokens)]:
            outcome = ShadowOutcome.CHANGED
        elif not state.done:
            return
        else:
            same = tokens == shadow.answer
            outcome = ShadowOutcome.AGREED if same else ShadowOutcome.CHANGED
        self._now = None
        self._stop(shadow)
        self._end(shadow, outcome)

    def _stop(self, shadow: Shadow) -> None:
        """Take it out of the core, wherever it is, and add up what the attempt cost."""
        state, shadow.state = shadow.state, None
        assert state is not None, "only a shadow that runs is stopped"
        shadow.flops += self._spent(state)
        self._core.abort(state)

    def _spent(self, state: RequestState) -> int:
        if state.trace is not None:
            return self._core.stats_of(state).flops.executed
        return self._core.spent(state)

    def _end(self, shadow: Shadow, outcome: ShadowOutcome) -> None:
        self._tell(ShadowStats(shadow.policy, outcome, shadow.flops))


def _shortened(stats: RequestStats) -> bool:
    """True if some layer ran without rows of the prompt: an exit or pruning, before the end."""
    return any(rows < stats.prompt_tokens for rows in stats.tokens_per_layer)


def _without_exit(shadow: Shadow, number: int) -> EngineRequest:
    """The same request with nothing leaving, for as many tokens as the answer took.

    Stop strings are left out: where the answer ended at one, the shadow ends there by its length.
    """
    sampling = shadow.request.sampling
    steps = max(1, shadow.sampled)
    asked = replace(
        sampling,
        max_tokens=steps,
        min_tokens=min(sampling.min_tokens, steps),
        n=1,
        stop=(),
        logprobs=None,
        return_logits=False,
    )
    name = f"shadow {number} of {shadow.request.request_id}"
    off = ExitOptions(policy="off")
    return replace(shadow.request, request_id=name, sampling=asked, exits=off)
