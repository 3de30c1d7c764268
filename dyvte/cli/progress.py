"""How far a long command is: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

QUIET_S = 30.0


class Bar:
    """Context manager on stderr. ``update`` may be called as often as one likes."""

    def __init__(self, what: str, total: int, unit: str = "samples") -> None:
        self.what, self.total, self.unit = what, total, unit
        self._done = self._before = 0
        self._began = self._said = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
            self._bar = Progress(
                TextColumn("{task.description}"),
                *columns,
                TimeRemainingColumn(elapsed_when_finished=True),
                console=Console(stderr=True),
            )
            self._bar.add_task(self.what, total=self.total, rate="")
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    @property
    def rate(self) -> float:
        """Units a second that this run did itself."""
        return (self._done - self._before) / max(1e-9, time.monotonic() - self._began)

    def update(self, done: int, fresh: bool = True) -> None:
        """``done`` units are done; not ``fresh``: an earlier run did them, they say no speed."""
        self._done = done
        if not fresh:
            self._before, self._began = done, time.monotonic()
        if self._bar is not None:
            rate = f"{self.rate:.1f} {self.unit}/s" if fresh else ""
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=done, rate=rate)
        elif fresh and time.monotonic() - self._said >= QUIET_S:
            self._said = time.monotonic()
            left = (self.total - done) / max(1e-9, self.rate)
            print(
                f"{self.what}: {done}/{self.total} {self.unit}, {self.rate:.1f}/s, "
                f"{left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )
