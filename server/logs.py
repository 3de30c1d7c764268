"""How the log is written: structlog, one JSON object a line or columns on a terminal.

Configured once, by the composition root; uvicorn's own lines take the same way. A traceback is
plain text without the values of variables, which could hold prompts and keys.
"""

from __future__ import annotations

import logging
import sys
import traceback

import structlog
from structlog.typing import Processor

from dyvte import loggers


def configure_logs(level: str, form: str) -> None:
    """Route structlog and the standard library to stderr in one form."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
        structlog.processors.format_exc_info,
    ]
    renderer: Processor = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(
            exception_formatter=structlog.dev.plain_traceback, colors=sys.stderr.isatty()
        )
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, renderer])
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    # uvicorn tells its own life at "info"; ours is told already.
    logging.getLogger("uvicorn").setLevel("DEBUG" if level == "debug" else "WARNING")
    # httpx tells every URL that it fetches, and a URL may hold somebody's signature.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel("WARNING")
    loggers.quiet()
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def traceback_of(error: BaseException) -> str:
    """The error's traceback as text, for a log line's ``exception``."""
    return "".join(traceback.format_exception(error)).rstrip()
