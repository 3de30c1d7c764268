"""The engine behind a thread: ``AsyncEngine`` is the only place where threads meet.

Requests go in through a queue, events come out through the caller's event loop; a closed or
dropped iterator is an abort. The thread owns the core; nothing else touches it but ``check`` and
``snapshot``, which only read.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from dyvte.engine.arrivals import POLL_S, Arrivals, patience
from dyvte.engine.core import EngineCore
from dyvte.engine.events import Checked, EngineRequest, ModelInfo, TokenEvent
from dyvte.engine.image_cache import content_key
from dyvte.engine.output import Emission
from dyvte.engine.sequence import RequestState
from dyvte.engine.shadow import ShadowConfig, Shadows
from dyvte.engine.stats import (
    Ending,
    EngineSnapshot,
    Observer,
    RequestStats,
    ShadowStats,
    UnfinishedStats,
)
from dyvte.engine.stream import Outbox, Stream
from dyvte.engine.turnstile import Turnstile
from dyvte.engine.warmup import warm_up
from dyvte.errors import EngineDied, EngineStopped, QueueFull, RequestFailed
from dyvte.exits.resolve import resolve, settle
from dyvte.params import ExitOptions, SamplingParams
from dyvte.prompt import Message, Prompt
from dyvte.structured import StructuredOutput
from dyvte.tools import Tool

log = logging.getLogger("dyvte.engine")

Command = Callable[[], None]


class AsyncEngine:
    """Continuous batching for an event loop; implements ``dyvte.engine.events.Engine``."""

    def __init__(
        self,
        core: EngineCore,
        info: ModelInfo,
        max_waiting: int = 256,
        shadows: ShadowConfig | None = None,
        max_waiting_tokens: int = 262_144,
    ) -> None:
        self.core = core
        self._info = info
        self._max_waiting = max_waiting
        self._max_waiting_tokens = max_waiting_tokens
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._outboxes: dict[str, Outbox] = {}
        self._observers: list[Observer] = []
        self._thread: threading.Thread | None = None
        self._running = False
        self._draining = False
        self._died = False
        self._turnstile = Turnstile()
        self._arrivals = Arrivals()
        core.heed(lambda: not self._commands.empty())
        self._shadows = Shadows(core, shadows or ShadowConfig(), self._tell_shadow)

    @property
    def info(self) -> ModelInfo:
        """What is loaded."""
        return self._info

    @property
    def alive(self) -> bool:
        """False once the thread has died of an error that no request explains."""
        return not self._died

    def prepare(self, messages: Sequence[Message], tools: Sequence[Tool] = ()) -> Prompt:
        """Chat template, tokens, processed images. Blocking. Raises PromptError."""
        with self._arrivals.preparing():
            return self._prepare(messages, tools)

    def _prepare(self, messages: Sequence[Message], tools: Sequence[Tool]) -> Prompt:
        prompt = self.core.model.prompt(messages, tools)
        caches = self.core.runner.images.max_bytes + self.core.prefixes.max_bytes
        if prompt.images is None or not caches:
            return prompt
        return replace(prompt, image_key=content_key(prompt.images))

    def tokenize(self, text: str, special: bool = True) -> list[int]:
        """Ids of plain text. Blocking. Raises PromptError."""
        return self.core.model.tokenize(text, special)

    def detokenize(self, token_ids: Sequence[int]) -> str:
        """The text of ids, specials written out. Blocking. Raises PromptError."""
        return self.core.model.detokenize(token_ids)

    def check(self, prompt: Prompt, sampling: SamplingParams, exits: ExitOptions | None) -> Checked:
        """Would they be taken? Blocking, from any thread. Raises PromptError, OptionError."""
        fit = self.core.fit(prompt, sampling, exits)
        return Checked(fit.layout.rows, fit)

    def resolve(self, exits: ExitOptions | None, conversation: bool = False) -> ExitOptions:
        """The options in force, defaults filled in. Raises OptionError."""
        grants = self.core.model.grants
        settled = settle(exits or grants.default_for(conversation), grants, conversation)
        resolve(settled, grants, conversation)
        return settled

    def compile(self, wanted: StructuredOutput) -> None:
        """Make a structured output ready; its requests then start at once. Blocking.

        Raises OptionError.
        """
        self.core.grammars.compile(wanted)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for."""
        table = self.core.model.token_bytes
        return table(token_id) if table else b""

    def submit(self, request: EngineRequest) -> Stream:
        """Hand a request to the engine thread.

        Raises QueueFull, EngineStopped, PromptError, OptionError at once; the stream raises
        RequestFailed or EngineStopped later.
        """
        self._refuse_when_ended()
        pending = len(self._outboxes)
        if pending >= self._max_waiting + self.core.scheduler.limits.max_num_seqs:
            raise self._full(f"{pending} requests are waiting")
        if request.request_id in self._outboxes:
            raise ValueError(f"request id {request.request_id!r} is in use")
        state = self.core.check(request)
        waiting = self._waiting_tokens()
        if waiting and waiting + state.layout.rows > self._max_waiting_tokens:
            raise self._full(f"{waiting} tokens are waiting")
        outbox = Outbox(state, asyncio.get_running_loop())
        self._outboxes[request.request_id] = outbox
        try:
            self._refuse_when_ended()  # the thread may have ended without seeing this one
        except EngineStopped:
            self._forget(outbox)
            raise
        self._commands.put(lambda: self._add(outbox))
        return Stream(outbox, self._close)

    def finish(self, request_id: str, index: int) -> None:
        """End choice ``index`` as STOP within a step; unknown or ended is ignored."""
        self._commands.put(lambda: self._finish_choice(request_id, index))

    def snapshot(self) -> EngineSnapshot:
        """How busy it is now; requests not yet seen by the thread count as waiting.

        A shadow is no request; its pages are in use all the same.
        """
        now = self.core.snapshot()
        inbox = sum(1 for outbox in list(self._outboxes.values()) if not outbox.state.choices)
        if self._shadows.running:  # alone in the core
            return replace(now, running=0, waiting=inbox)
        return replace(now, waiting=now.waiting + inbox)

    def observe(self, observer: Observer) -> None:
        """Tell ``observer`` of every step, every finished request and every shadow."""
        self._observers.append(observer)

    async def start(self) -> None:
        """Warm up and start the thread."""
        if self._running:
            return
        await asyncio.to_thread(warm_up, self.core)
        self._running = True
        self._thread = threading.Thread(target=self._main, name="dyvte-engine", daemon=True)
        self._thread.start()

    async def drain(self, timeout_s: float) -> bool:
        """Refuse new requests, wait for the running; True if all finished in time.

        Shadows are dropped.
        """
        self._draining = True
        self._commands.put(self._shadows.close)
        deadline = time.monotonic() + timeout_s
        while self._outboxes and self.alive and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        return not self._outboxes

    async def stop(self) -> None:
        """Abort what runs and end the thread."""
        self._draining = True
        self._running = False
        self._commands.put(lambda: None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    def _refuse_when_ended(self) -> None:
        if self._died:
            raise EngineDied("the engine died")
        if self._draining or not self._running:
            raise EngineStopped("the engine is not taking requests")

    def _waiting_tokens(self) -> int:
        """Prompt rows of the requests whose prefill has not begun."""
        states = [outbox.state for outbox in list(self._outboxes.values())]
        return sum(state.layout.rows for state in states if state.clock.admitted is None)

    def _full(self, why: str) -> QueueFull:
        return QueueFull(why, self._turnstile.retry_after())

    def _close(self, outbox: Outbox) -> None:
        outbox.closed = True
        self._commands.put(lambda: self._abort(outbox))

    # Everything below runs in the engine thread.

    def _main(self) -> None:
        try:
            while self._running:
                idle = not self.core.has_work and not self._shadows.waiting
                self._obey(wait=idle)
                if idle:
                    self._gather()
                if self._running:
                    self._step()
        except BaseException:
            log.exception("the engine thread died")
            self._died = True
        self._running = False  # before the end of all: submit looks again after it
        self._end_all("the engine died" if self._died else "the server is stopping")

    def _gather(self) -> None:
        """Before an idle engine begins: let in who is all but here, to share the layers."""
        began = time.perf_counter()
        while self._running and self.core.has_work and self._arrivals.expected:
            if time.perf_counter() - began > patience(self.core.seconds_waiting()):
                return
            try:
                self._commands.get(timeout=POLL_S)()
            except queue.Empty:
                continue

    def _step(self) -> None:
        """One step of the requests or, where there are none, of a shadow."""
        if not self.core.has_work:
            self._shadows.start()
        if not self.core.has_work:
            return
        unseen = self._shadows.running
        self._deliver(self._shadows.take(self.core.step()))
        if not unseen:
            self._tell(lambda observer: observer.on_step(self.core.last_step))

    def _obey(self, wait: bool) -> None:
        if wait:
            self._commands.get()()
        while True:
            try:
                self._commands.get_nowait()()
            except queue.Empty:
                return

    def _add(self, outbox: Outbox) -> None:
        self._arrivals.came()
        if outbox.closed or not self._running:
            self._forget(outbox)
            return
        try:
            self._shadows.give_way()
            self.core.add(outbox.state)
        except Exception as error:
            self._give_up(outbox, error)

    def _abort(self, outbox: Outbox, ending: Ending = Ending.ABORTED) -> None:
        self.core.abort(outbox.state)
        if self._forget(outbox):
            self._tell_unfinished(outbox.state, ending)

    def _finish_choice(self, request_id: str, index: int) -> None:
        outbox = self._outboxes.get(request_id)
        if outbox is not None:
            self._deliver(self.core.finish_choice(outbox.state, index))

    def _deliver(self, emissions: Sequence[Emission]) -> None:
        """One list of events per request and step; the last one carries the stats."""
        events: dict[str, list[TokenEvent]] = {}
        for emission in emissions:
            request_id = emission.state.request.request_id
            outbox = self._outboxes.get(request_id)
            if outbox is None:
                continue
            if emission.error is not None:
                self._forget(outbox)
                self._tell_unfinished(outbox.state, Ending.FAILED)
                outbox.put(emission.error)
                continue
            events.setdefault(request_id, []).append(emission.event)
        for request_id, each in events.items():
            outbox = self._outboxes.get(request_id)
            if outbox is None:
                continue
            try:
                self._hand_over(outbox, each)
            except Exception as error:
                self._give_up(outbox, error)

    def _hand_over(self, outbox: Outbox, events: list[TokenEvent]) -> None:
        if outbox.state.done:
            stats = self.core.stats_of(outbox.state)
            events[-1] = replace(events[-1], stats=stats)
            self._forget(outbox)
            self._tell_finish(stats)
            self._shadows.offer(outbox.state, stats)
        if not outbox.put(events):
            self._abort(outbox)  # the caller's loop is gone: nobody listens any more

    def _give_up(self, outbox: Outbox, error: Exception) -> None:
        """A fault of ours in one request's book-keeping ends that request alone."""
        log.error("request %s could not be served", outbox.request_id, exc_info=error)
        outbox.put(RequestFailed("the engine could not serve this request", outbox.request_id))
        self._abort(outbox, Ending.FAILED)

    def _tell_finish(self, stats: RequestStats) -> None:
        self._tell(lambda observer: observer.on_finish(stats))

    def _tell_unfinished(self, state: RequestState, ending: Ending) -> None:
        if state.spent is not None:
            stats = UnfinishedStats(state.options.policy, ending, state.spent)
            self._tell(lambda observer: observer.on_unfinished(stats))

    def _tell_shadow(self, stats: ShadowStats) -> None:
        self._tell(lambda observer: observer.on_shadow(stats))

    def _tell(self, say: Callable[[Observer], None]) -> None:
        """An observer that raises is a fault of its own; the engine goes on."""
        for observer in self._observers:
            try:
                say(observer)
            except Exception:
                log.exception("an observer raised")

    def _forget(self, outbox: Outbox) -> bool:
        """Strike a request off the list; False if it was not there, or its id is another's now."""
        if self._outboxes.get(outbox.request_id) is not outbox:
            return False
        del self._outboxes[outbox.request_id]
        self._turnstile.ended()
        return True

    def _end_all(self, reason: str) -> None:
        """Tell everybody first: after a death the core may be beyond aborting."""
        outboxes = list(self._outboxes.values())
        ending = Ending.FAILED if self._died else Ending.ABORTED
        for outbox in outboxes:
            self._forget(outbox)
            outbox.put(EngineDied(reason) if self._died else EngineStopped(reason))
        for outbox in outboxes:
            try:
                self.core.abort(outbox.state)
                self._tell_unfinished(outbox.state, ending)
            except Exception:
                log.exception("request %s could not be aborted", outbox.request_id)
        try:
            self._shadows.close()
        except Exception:
            log.exception("shadow runs could not be ended")
