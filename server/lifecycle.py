"""Loading, ready, draining: who may come in, and how the house is closed.

The engine is opened in a thread of its own, so that ``/health`` answers while a model loads.
Draining refuses newcomers, lets those inside finish within the time given, and then stops the
engine, which ends every stream with a terminal event.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum

import structlog

from dyvte.engine.events import Engine
from dyvte.errors import OptionError
from dyvte.params import SamplingParams
from dyvte.prompt import Prompt
from server.admission import Admission, Place
from server.api.errors import unavailable
from server.api.exits import aliases, in_force, server_default
from server.keys import Client
from server.settings import Settings

log = structlog.get_logger("dyvte.server")

OpenEngine = Callable[[], Engine]
POLL_S = 0.02
LAST_WORDS_S = 2.0  # for terminal events after the engine was stopped


class Phase(StrEnum):
    """Where the server is in its life."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Lifecycle:
    """Owns the engine from opening to stopping, and counts who is inside."""

    def __init__(
        self,
        settings: Settings,
        open_engine: OpenEngine,
        on_ready: Callable[[Engine], None],
        on_refusal: Callable[[str], None],
        on_failure: Callable[[Exception], None] | None = None,
    ) -> None:
        self.phase = Phase.LOADING
        self._admission = Admission(settings.max_num_seqs + settings.max_waiting, on_refusal)
        self._settings = settings
        self._open_engine = open_engine
        self._on_ready = on_ready
        self._on_refusal = on_refusal
        self._on_failure = on_failure
        self._engine: Engine | None = None
        self._drained: asyncio.Task[None] | None = None

    @property
    def inside(self) -> int:
        """Requests that were let in and have not ended."""
        return self._admission.inside

    @property
    def alive(self) -> bool:
        """False once nothing can be served any more."""
        return self.phase is not Phase.FAILED and (self._engine is None or self._engine.alive)

    @property
    def ready(self) -> bool:
        """True while a request would be served."""
        return self.phase is Phase.READY and self.alive

    def engine(self) -> Engine:
        """The loaded engine. Raises ApiError (503)."""
        if self._engine is None:
            raise unavailable("The model is still loading.", "loading")
        return self._engine

    def check_ready(self) -> Engine:
        """The engine, if it takes requests. Raises ApiError (503)."""
        if self.phase is Phase.DRAINING:
            raise unavailable("The server is shutting down.", "draining")
        engine = self.engine()
        if not self.alive:
            raise unavailable("The engine has stopped.", "engine_stopped")
        return engine

    @contextmanager
    def admit(self, client: Client | None = None) -> Iterator[Place]:
        """Let one request in for as long as the context lasts. Raises ApiError (429, 503)."""
        try:
            self.check_ready()
        except Exception:
            draining = self.phase is Phase.DRAINING
            self._on_refusal("draining" if draining else "not_ready")
            raise
        with self._admission.place(client) as place:
            yield place

    async def load(self) -> None:
        """Open and start the engine; a failure is told once and leaves the phase FAILED."""
        began = time.perf_counter()
        engine: Engine | None = None
        try:
            engine = await _in_thread(self._open_engine)
            await engine.start()
            _check_operator_exits(engine, self._settings)
        except Exception as error:
            self.phase = Phase.FAILED
            if engine is not None:
                await engine.stop()
            if self._on_failure is None:
                log.error("the model could not be loaded", reason=str(error))
                raise
            self._on_failure(error)
            return
        self._engine = engine
        self._on_ready(engine)
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY
        info, seconds = engine.info, round(time.perf_counter() - began, 2)
        form = {"device": info.device, "dtype": info.dtype, "weights": info.weights}
        log.info("ready", model=self._settings.name, **form, seconds=seconds)
        if info.exits_hint:
            log.warning("exits", hint=info.exits_hint)

    async def drain(self) -> None:
        """Close the house; whoever calls waits until it is closed."""
        if self._drained is None:
            self._drained = asyncio.ensure_future(self._drain())
        await asyncio.shield(self._drained)

    async def _drain(self) -> None:
        if self.phase is Phase.FAILED:
            return
        self.phase = Phase.DRAINING
        deadline = time.monotonic() + self._settings.drain_timeout
        log.info("draining", inside=self.inside, seconds=self._settings.drain_timeout)
        await self._empty_by(deadline)
        if self._engine is not None:
            if self.inside:
                log.warning("drain timeout: running requests are ended", inside=self.inside)
            await self._engine.drain(max(0.0, deadline - time.monotonic()) if self.inside else 1.0)
            await self._engine.stop()
        await self._empty_by(time.monotonic() + LAST_WORDS_S)

    async def _empty_by(self, deadline: float) -> None:
        while self.inside and time.monotonic() < deadline:
            await asyncio.sleep(POLL_S)


def _check_operator_exits(engine: Engine, settings: Settings) -> None:
    """The default and the presets must hold on this model under the caps. Raises OptionError."""
    info, name = engine.info, settings.name
    for conversation in (False, True):
        presets = aliases(name, info, conversation).values()
        prompt = Prompt([0], user_turns=1 + conversation)
        for exits in (server_default(info, settings, conversation), *presets):
            try:
                held = in_force(exits, engine, settings, conversation)
                engine.check(prompt, SamplingParams(max_tokens=1), held)
            except OptionError as error:
                raise _as_set(error, settings) from error


def _as_set(error: OptionError, settings: Settings) -> OptionError:
    """The same fault, at the setting that the operator wrote."""
    written = settings.default_exits
    if error.field == "min_layer" and settings.min_exit_layer is not None:
        return OptionError("min_exit_layer", error.message)
    if isinstance(written, Mapping):
        return OptionError("default_exits", f"{error.field} {error.message}")
    return error


async def _in_thread(open_engine: OpenEngine) -> Engine:
    """Run ``open_engine`` in a daemon thread: a load that hangs must not keep the process."""
    loop = asyncio.get_running_loop()
    opened: asyncio.Future[Engine] = loop.create_future()

    def settle(result: Engine | None, error: Exception | None) -> None:
        if opened.cancelled():
            return
        if error is not None:
            opened.set_exception(error)
        elif result is not None:
            opened.set_result(result)

    def work() -> None:
        result, failure = None, None
        try:
            result = open_engine()
        except Exception as error:
            failure = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="open-engine", daemon=True).start()
    return await opened
