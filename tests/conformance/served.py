"""A ``dyvte serve`` of the demo model as a process of its own, for whoever knocks from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "picture.png"
STARTED_WITHIN_S = 180.0


@dataclass(frozen=True, slots=True)
class Served:
    """Where it listens, which process it is, and where its log goes."""

    url: str
    pid: int
    log: Path


@contextmanager
def served(*flags: str, module: str = "server") -> Iterator[Served]:
    """The server, ready, until the context ends; float32, so that a batch changes no answer.

    ``module`` is what is run: the server, or a program that runs it with something added.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", module, "--model", "demo", "--dtype", "float32"]
    with tempfile.NamedTemporaryFile("wb", suffix=".log", delete=False) as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--log-format", "json", *flags],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(process, url, Path(log.name))
        yield Served(url, process.pid, Path(log.name))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"the server did not get ready; its log: {log}")
