"""Real servers under a real Prometheus and Alertmanager, on free ports of this machine.

The files are those of deploy/: only addresses are replaced, and durations where asked
(hurry.py). What is written lies under one temporary folder; ``close`` ends every process.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.observability.hurry import hurried

ROOT = Path(__file__).parents[2]
PROGRAMS = ("prometheus", "prometheus-alertmanager", "promtool")
READY_WITHIN_S = 300.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def program(name: str) -> str | None:
    """Where a program is; Debian calls Alertmanager ``prometheus-alertmanager``."""
    return shutil.which(name) or shutil.which(name.removeprefix("prometheus-"))


@dataclass
class Stack:
    """Processes by name and where they answer."""

    folder: Path
    quick: bool = True
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ports: dict[str, int] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """Where a part answers."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def serve(self, name: str, *flags: str) -> None:
        """A DyVTE server with the demo model; returns when it is ready."""
        port = self.ports.setdefault(name, free_port())
        command = [sys.executable, "-m", "server", "--port", str(port), *flags]
        self._start(name, command, "/ready")

    def stop(self, name: str, by: signal.Signals = signal.SIGKILL) -> None:
        """End a part and wait for its end."""
        process = self.processes.pop(name)
        process.send_signal(by)
        process.wait(timeout=60)

    def watch(self, targets: Sequence[str], scrape: str | None = None) -> None:
        """Start Alertmanager and a Prometheus that scrapes ``targets``."""
        for name in ("prometheus", "alertmanager"):
            self.ports[name] = free_port()
        config = self._configured(targets, scrape)
        self._start(
            "alertmanager",
            [
                str(program("prometheus-alertmanager")),
                f"--config.file={self._alertmanager()}",
                f"--storage.path={self.folder / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self.ports['alertmanager']}",
                "--cluster.listen-address=",
            ],
            "/-/ready",
        )
        self._start(
            "prometheus",
            [
                str(program("prometheus")),
                f"--config.file={config}",
                f"--storage.tsdb.path={self.folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}",
            ],
            "/-/ready",
        )

    def alerts(self) -> set[str]:
        """Names of the alerts that Alertmanager holds for firing, inhibited ones included."""
        reply = httpx.get(f"{self.url('alertmanager')}/api/v2/alerts", timeout=10)
        return {alert["labels"]["alertname"] for alert in reply.json()}

    def metric(self, server: str, name: str) -> float:
        """Sum of the samples on a server's page whose line begins with ``name``."""
        page = httpx.get(f"{self.url(server)}/metrics", timeout=30).text
        lines = (line for line in page.splitlines() if line.startswith(name))
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def close(self) -> None:
        """End everything."""
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(timeout=30)

    def _configured(self, targets: Sequence[str], scrape: str | None) -> Path:
        folder = self.folder / "config"
        shutil.copytree(ROOT / "deploy/prometheus", folder)
        places = {
            "alertmanager:9093": f"127.0.0.1:{self.ports['alertmanager']}",
            "localhost:9090": f"127.0.0.1:{self.ports['prometheus']}",
            "server:8000": "\n    - ".join(f"127.0.0.1:{self.ports[name]}" for name in targets),
        }
        for path in (*folder.glob("*.yml"), *folder.glob("targets/*.yml")):
            text = path.read_text(encoding="utf-8")
            for there, here in places.items():
                text = text.replace(there, here)
            if self.quick and path.parent == folder:
                text = hurried(text)
            if scrape:
                text = text.replace("_interval: 15s", f"_interval: {scrape}")
                text = text.replace("scrape_timeout: 10s", f"scrape_timeout: {scrape}")
            path.write_text(text, encoding="utf-8")
        return folder / "prometheus.yml"

    def _alertmanager(self) -> Path:
        """Its file with an address in place of the secret one, which is nowhere to be found here
        and which Alertmanager reads from a file from 0.26 on only."""
        text = (ROOT / "deploy/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
        path = self.folder / "alertmanager.yml"
        path.write_text(re.sub(r"url_file: \S+", "url: http://127.0.0.1:9/", text))
        return path

    def _start(self, name: str, command: Sequence[str], ready: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        self.processes[name] = process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "DYVTE_LOG_LEVEL": "warning"},
            stdout=log,
            stderr=log,
        )
        log.close()

        def answers() -> bool:
            if process.poll() is not None:
                told = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{name} ended with {process.returncode}: {told}")
            try:
                return httpx.get(self.url(name) + ready, timeout=2).is_success
            except httpx.TransportError:
                return False

        if not until(answers, READY_WITHIN_S, every=0.2):
            raise RuntimeError(f"{name} was not ready within {READY_WITHIN_S:.0f} s")


def until(holds: Callable[[], Any], within: float, every: float = 0.5) -> bool:
    """Wait until something holds; False if it did not in time."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(every)
    return bool(holds())
