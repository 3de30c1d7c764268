"""``python -m deploy.ray`` as a process with two replicas of the demo, and ways to look inside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
STARTED_WITHIN_S = 180.0
STOPPED_WITHIN_S = 60.0
FLAGS = ("--dtype", "float32", "--device", "cpu", "--kv-cache-memory", "512MiB")


@dataclass(frozen=True, slots=True)
class Replica:
    """What the fleet says of one of its replicas."""

    name: str
    pid: int
    metrics_url: str

    def metric(self, name: str) -> float:
        """Sum of the samples whose line starts with ``name``."""
        text = httpx.get(self.metrics_url, timeout=10).text
        lines = [line for line in text.splitlines() if line.startswith(name)]
        assert lines, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running fleet."""

    process: subprocess.Popen[str]
    base: str

    def replicas(self) -> list[Replica]:
        """Those that are up, by name."""
        listed = httpx.get(f"{self.base}/-/replicas", timeout=20).json()
        return sorted(map(_replica, listed), key=lambda replica: replica.name)


def _replica(entry: Mapping[str, Any]) -> Replica:
    labels, (target,) = entry["labels"], entry["targets"]
    return Replica(labels["replica"], int(labels["__meta_dyvte_pid"]), f"http://{target}/metrics")


@contextmanager
def cluster(log: Path, *flags: str) -> Iterator[Cluster]:
    """A fleet on a free port, ended in order at the end; what it writes goes to ``log``."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "deploy.ray", "--port", str(port), *FLAGS, *flags]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, text=True
        )
    running = Cluster(process, f"http://127.0.0.1:{port}")
    try:
        until(lambda: _ready(running), STARTED_WITHIN_S, f"the fleet did not start: see {log}")
        yield running
    finally:
        process.terminate()
        try:
            process.wait(STOPPED_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise


def _ready(running: Cluster) -> bool:
    assert running.process.poll() is None, "the fleet ended while it started"
    try:
        return httpx.get(f"{running.base}/ready", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def until(condition: Callable[[], bool], seconds: float, otherwise: str) -> float:
    """Wait for ``condition()``; the seconds it took. Fails after ``seconds``."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, otherwise
        time.sleep(0.2)
    return time.monotonic() - began
