"""Who is told, and what one alert makes of another: the file, and a real Alertmanager with it."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from tests.deploy.programs import run
from tests.prometheus.files import ALERTMANAGER, program

WEBHOOK = re.compile(r"url_file: /etc/alertmanager/webhook_url")


def written(folder: Path, webhook: str | None = None) -> Path:
    """The configuration as it is, or with another address of its webhook and no patience."""
    text = ALERTMANAGER.read_text("utf-8")
    if webhook is not None:
        text = WEBHOOK.sub(f"url: {webhook}", text)
        text = re.sub(r"group_wait: \w+", "group_wait: 500ms", text)
        text = re.sub(r"group_interval: \w+", "group_interval: 1s", text)
    path = folder / "alertmanager.yml"
    path.write_text(text, "utf-8")
    return path


def understands_url_file() -> bool:
    """``url_file`` of a webhook is Alertmanager 0.26's."""
    said = run([program("amtool"), "--version"]).stdout
    version = re.search(r"version (\d+)\.(\d+)", said)
    assert version is not None, said
    return (int(version[1]), int(version[2])) >= (0, 26)


def test_the_address_of_the_webhook_is_not_in_the_file() -> None:
    text = ALERTMANAGER.read_text("utf-8")
    assert len(WEBHOOK.findall(text)) == 1
    assert not re.search(r"^\s*(- )?(url|password|credentials|token):", text, re.MULTILINE)


def test_the_configuration_is_sound(tmp_path: Path) -> None:
    """An older ``amtool`` than 0.26 sees a plain address in the place of ``url_file``."""
    config = written(tmp_path, None if understands_url_file() else "http://127.0.0.1:9/")
    told = run([program("amtool"), "check-config", config])
    assert told.returncode == 0, told.stdout


def test_a_planted_mistake_is_found(tmp_path: Path) -> None:
    config = written(tmp_path, "http://127.0.0.1:9/")
    config.write_text(config.read_text("utf-8").replace("receiver: operator", "receiver: nobody"))
    assert run([program("amtool"), "check-config", config]).returncode != 0


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_every_alert_has_a_receiver(tmp_path: Path, severity: str) -> None:
    config = written(tmp_path, "http://127.0.0.1:9/")
    command = [program("amtool"), "config", "routes", "test", f"--config.file={config}"]
    assert run([*command, f"severity={severity}"]).stdout.splitlines()[-1:] == ["operator"]


@dataclass
class Operator:
    """A real Alertmanager and what it told its webhook."""

    url: str
    told: list[dict[str, Any]] = field(default_factory=list)

    def post(self, *alerts: dict[str, str], ended: bool = False) -> None:
        """Alerts as Prometheus sends them: firing, or ended a moment ago."""
        now = time.time()
        span = {"startsAt": _stamp(now - 60), "endsAt": _stamp(now - 1 if ended else now + 600)}
        body = [{"labels": labels, **span} for labels in alerts]
        httpx.post(f"{self.url}/api/v2/alerts", json=body, timeout=10).raise_for_status()

    def states(self) -> dict[tuple[str, str], str]:
        """(alert, instance) → active or suppressed."""
        alerts = httpx.get(f"{self.url}/api/v2/alerts", timeout=10).json()
        return {
            (each["labels"]["alertname"], each["labels"].get("instance", "")): each["status"][
                "state"
            ]
            for each in alerts
        }

    def heard(self, status: str) -> set[str]:
        """Alerts of a status (firing, resolved) that the webhook was told of."""
        alerts = [alert for message in self.told for alert in message["alerts"]]
        return {each["labels"]["alertname"] for each in alerts if each["status"] == status}


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.1)


def _webhook(told: list[dict[str, Any]]) -> HTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(orjson.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    binary = program("prometheus-alertmanager")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    made = Operator(f"http://{address}")
    webhook = _webhook(made.told)
    config = written(tmp_path, f"http://127.0.0.1:{webhook.server_port}/")
    flags = [f"--config.file={config}", f"--storage.path={tmp_path}", "--cluster.listen-address="]
    process = subprocess.Popen(
        [binary, *flags, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _ready(made.url))
        yield made
    finally:
        process.kill()
        process.wait()
        webhook.shutdown()
        webhook.server_close()


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


DOWN = {"alertname": "DyvteTargetDown", "instance": "a", "severity": "critical"}
UNREADY = {"alertname": "DyvteNotReady", "severity": "critical", "model_name": "demo"}
FELL = {"alertname": "DyvteSavingsFell", "severity": "warning", "model_name": "demo"}
ALL = {"alertname": "DyvteAllDown", "severity": "critical"}


@pytest.mark.promtool
def test_a_server_that_is_down_silences_what_is_said_of_it_and_all_down_silences_the_rest(
    operator: Operator,
) -> None:
    operator.post(DOWN, FELL)
    until(lambda: operator.heard("firing") == {"DyvteTargetDown", "DyvteSavingsFell"})
    operator.post({**UNREADY, "instance": "a"}, {**UNREADY, "instance": "b"})
    until(lambda: "DyvteNotReady" in operator.heard("firing"))
    states = operator.states()
    assert states["DyvteNotReady", "a"] == "suppressed"
    assert states["DyvteNotReady", "b"] == states["DyvteSavingsFell", ""] == "active"
    operator.post(ALL)
    until(lambda: "DyvteAllDown" in operator.heard("firing"))
    until(lambda: set(operator.states().values()) == {"active", "suppressed"})
    awake = [name for (name, _), state in operator.states().items() if state == "active"]
    assert awake == ["DyvteAllDown"]
    operator.post(ALL, ended=True)
    until(lambda: "DyvteAllDown" in operator.heard("resolved"))
