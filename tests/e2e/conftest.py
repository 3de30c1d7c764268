"""A real server process over a tiny random model, and the ways to reach it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_S = 90.0
MODEL = "tiny"
FLAGS = ("--dtype", "float32", "--device", "cpu")


@dataclass(frozen=True, slots=True)
class Server:
    """A running ``python -m server`` and its address."""

    process: subprocess.Popen[str]
    base: str
    client: OpenAI  # without retries: a test sees the first answer

    def metric(self, name: str) -> float:
        """The value of a metric line that starts with ``name``."""
        text = httpx.get(f"{self.base}/metrics", timeout=10).text
        values = [line for line in text.splitlines() if line.startswith(name)]
        assert values, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in values)

    def terminate(self) -> None:
        """Ask it to drain."""
        self.process.send_signal(signal.SIGTERM)


@contextmanager
def started(folder: Path, *flags: str) -> Iterator[Server]:
    """A server on a free port once it is ready; it ends with the context, as does its client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "server", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--model", str(folder), "--served-model-name", MODEL, *FLAGS, *flags],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    base = f"http://127.0.0.1:{port}"
    try:
        with OpenAI(base_url=f"{base}/v1", api_key="unused", max_retries=0, timeout=60) as client:
            server = Server(process, base, client)
            _wait_until_ready(server)
            yield server
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(server: Server) -> None:
    deadline = time.monotonic() + STARTED_WITHIN_S
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.base}/ready", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start (exit code {server.process.poll()})")


@pytest.fixture(scope="module")
def server(tiny_folder: Path) -> Iterator[Server]:
    """One server for the tests of a module."""
    with started(tiny_folder) as running:
        yield running
