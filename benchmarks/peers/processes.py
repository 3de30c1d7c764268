"""Servers as processes: started, waited for, paused while others are measured, stopped.

Each runs in a session of its own, so that what it starts is counted, paused and ended with it.
Reads /proc: Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.machine import Strangers
from benchmarks.peers.servers import Server

START_SECONDS = 900.0  # vLLM compiles, and a busy machine is slow at it
STOP_SECONDS = 20.0
PAUSE_SECONDS = 0.2
POLL_SECONDS = 0.1
ENDED = "ZX"
TICKS = os.sysconf("SC_CLK_TCK")


class ServerFailed(Exception):
    """A server that did not start or has ended; says where its log is."""


@dataclass(frozen=True, slots=True)
class Process:
    """One line of /proc: who, whose session, how much of the processors until now."""

    pid: int
    session: int
    seconds: float


def processes() -> Iterator[Process]:
    """All that live, by proc(5)'s ``stat``."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended meanwhile
            words = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            if words[0] in ENDED:
                continue
            ticks = int(words[11]) + int(words[12])
            yield Process(int(folder.name), int(words[3]), ticks / TICKS)


@dataclass(slots=True)
class Running:
    """A server that answers.

    ``start_seconds``: from its start to its first reply; ``start_others``: cores that other
    processes used meanwhile.
    """

    server: Server
    popen: subprocess.Popen[bytes]
    start_seconds: float = 0.0
    start_others: float = 0.0
    paused: bool = False

    def members(self) -> list[Process]:
        """Itself and what it started."""
        return [each for each in processes() if each.session == self.popen.pid]

    def cpu_seconds(self) -> float:
        """Of the processors, of all members that live."""
        return sum(each.seconds for each in self.members())

    def memory_bytes(self) -> int:
        """Proportional set size of all members."""
        return sum(_proportional_set_size(each.pid) for each in self.members())

    def pause(self) -> None:
        """No member runs from here on."""
        if not self.paused:
            self._signal(signal.SIGSTOP)
            self.paused = True

    def resume(self) -> None:
        """Members run again."""
        if self.paused:
            self._signal(signal.SIGCONT)
            self.paused = False
            time.sleep(PAUSE_SECONDS)

    def stop(self) -> None:
        """End all members, gently first."""
        self.resume()
        self._signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(STOP_SECONDS)
        self._signal(signal.SIGKILL)
        self.popen.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while self.members() and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)

    def _signal(self, number: int) -> None:
        for each in self.members():
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, number)


@dataclass(slots=True)
class Fleet:
    """The servers of a campaign, started when they are first needed; logs go to ``logs``."""

    logs: Path
    running: dict[str, Running] = field(default_factory=dict)

    def only(self, server: Server) -> Running:
        """``server``, ready, with all others paused. Raises ServerFailed."""
        for name, other in self.running.items():
            if name != server.name:
                other.pause()
        found = self.running.get(server.name)
        if found is not None and found.popen.poll() is not None:
            found.stop()
            found = None
        if found is None:
            found = self._start(server)
            self.running[server.name] = found
        found.resume()
        return found

    def stop(self) -> None:
        """End all."""
        for each in self.running.values():
            each.stop()
        self.running.clear()

    def _start(self, server: Server) -> Running:
        _check_free(server)
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{server.name}.log"
        began = time.perf_counter()
        with path.open("ab") as log:
            popen = subprocess.Popen(
                server.command,
                env=os.environ | dict(server.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running = Running(server, popen)
        strangers = Strangers(lambda: time.process_time() + running.cpu_seconds())
        try:
            _wait(running, began + START_SECONDS)
        except BaseException as error:
            running.stop()
            if isinstance(error, ServerFailed):
                raise ServerFailed(f"{error}: see {path}") from None
            raise
        running.start_seconds = time.perf_counter() - began
        running.start_others = strangers.cores()
        return running


def _check_free(server: Server) -> None:
    """Raise ServerFailed if somebody listens there, even somebody who is paused."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", server.port))
        except OSError:
            raise ServerFailed(f"{server.name}: port {server.port} is taken") from None


def _wait(running: Running, deadline: float) -> None:
    """Until the server says that it is ready. Raises ServerFailed."""
    name = running.server.name
    with httpx.Client(base_url=running.server.root, trust_env=False, timeout=5) as client:
        while time.perf_counter() < deadline:
            if running.popen.poll() is not None:
                raise ServerFailed(f"{name} ended with {running.popen.returncode}")
            if _answers(client, running.server.ready):
                return
            time.sleep(POLL_SECONDS)
    raise ServerFailed(f"{name} did not answer in {START_SECONDS:.0f} s")


def _answers(client: httpx.Client, path: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get(path).is_success
    return False


def _proportional_set_size(pid: int) -> int:
    with contextlib.suppress(OSError):  # it has ended meanwhile
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
