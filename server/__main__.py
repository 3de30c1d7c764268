"""``dyvte serve``: the one place where settings, engine, app and socket are put together.

The port opens at once, so that ``/health`` answers while the model loads in a thread; torch is
imported there and nowhere earlier.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack

import structlog

from dyvte.engine.events import Engine
from dyvte.errors import DyvteError, OptionError
from server.app import create_app
from server.commandline import flag, load_settings
from server.listen import Listener, bind, check_tls
from server.logs import configure_logs
from server.settings import ConfigError, Settings
from server.tracing import traced

FAILED = 2

log = structlog.get_logger("dyvte.server")


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for. Blocking. Raises DyvteError."""
    from dyvte.engine.opening import open_engine as opened

    return opened(
        settings.model,
        gates=settings.gates,
        foreign_gates=settings.foreign_gates,
        allow_pickle=settings.allow_pickle,
        token_order=settings.token_order,
        device=settings.device,
        dtype=settings.dtype,
        weights=settings.weights,
        cuda_graphs=settings.cuda_graphs,
        max_model_len=settings.max_model_len,
        max_num_seqs=settings.max_num_seqs,
        max_stall_ms=settings.max_stall_ms,
        max_waiting=settings.max_waiting,
        max_waiting_tokens=settings.max_waiting_tokens,
        kv_cache_memory=settings.kv_cache_memory,
        image_cache_memory=settings.image_cache_memory,
        prefix_cache_memory=settings.prefix_cache_memory,
        shadow_share=settings.shadow_share,
        shadow_seed=settings.shadow_seed,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit code."""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        listener.should_exit = True

    with ExitStack() as running:
        try:
            settings = load_settings(argv)
            check_tls(settings)
            app = create_app(settings, lambda: open_engine(settings), on_failure=fail)
            socket = running.enter_context(bind(settings))
            configure_logs(settings.log_level, settings.log_format)
            running.enter_context(traced(app, settings))
        except ConfigError as error:
            return _refuse(str(error))
        listener = Listener(app, settings, app.state.lifecycle.drain)
        port = socket.getsockname()[1]
        log.info("listening", host=settings.host, port=port, model=settings.model)
        listener.run(sockets=[socket])
    return _refuse(reason_of(failures[0], settings)) if failures else 0


def reason_of(error: Exception, settings: Settings) -> str:
    """One line for the operator, beginning with the flag to change."""
    text = " ".join(str(error).split())
    if isinstance(error, OptionError):
        return f"{flag(error.field)}: {error.message}"
    if not isinstance(error, DyvteError):
        return f"--model {settings.model}: cannot be served ({type(error).__name__}: {text})"
    if text.startswith("gates:"):
        return f"--gates {settings.gates}{text[5:]}" if settings.gates else text
    return f"--model {text}"


def _refuse(reason: str) -> int:
    sys.stderr.write(f"dyvte serve: {reason}\n")
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
