"""Forms of answers compiled off the event loop, with turns and a deadline.

Threads of its own: pictures do not wait for grammars. The library's budgets end a compilation;
the deadline is for what they do not foresee.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from dyvte.engine.events import Engine
from dyvte.errors import OptionError
from dyvte.structured import StructuredOutput
from server.api.form import form_error

TURNS = 2
COMPILE_SECONDS = 5.0


class FormCompiler:
    """Compiles a few at a time; one that overruns its deadline holds up nobody."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2 * TURNS, "grammar")
        self._turns = asyncio.Semaphore(TURNS)

    async def compile(self, wanted: StructuredOutput | None, param: str, engine: Engine) -> None:
        """Make a form ready; ``param`` names it in errors. Raises ApiError (400)."""
        if wanted is None:
            return
        loop = asyncio.get_running_loop()
        async with self._turns:
            compiling = loop.run_in_executor(self._threads, engine.compile, wanted)
            try:
                await asyncio.wait_for(compiling, COMPILE_SECONDS)
            except TimeoutError as error:
                raise form_error(param, "takes too long to compile") from error
            except OptionError as error:
                raise form_error(param, error.message) from error

    def close(self) -> None:
        """Drop what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)
