"""The process: what it says when it cannot start, and how it ends."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from server.__main__ import main
from tests.server.examples import CHAT, body
from tests.server.running import until

ROOT = Path(__file__).parents[2]


def start(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.server.running", *flags]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_sigterm_finishes_running_streams_and_refuses_new_requests() -> None:
    port = free_port()
    flags = ("--port", str(port), "--drain-timeout", "10", "--log-format", "json")
    with start(*flags) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        try:
            until(lambda: ready(client), seconds=60)
            with client.stream("POST", CHAT, json=body(stream=True), timeout=20) as reply:
                lines = reply.iter_lines()
                next(lines)
                process.send_signal(signal.SIGTERM)
                until(lambda: not ready(client))
                late = client.post(CHAT, json=body())
                rest = [line for line in lines if line]
            _, errors = process.communicate(timeout=30)
        finally:
            process.kill()
    assert late.status_code == 503
    assert late.json()["error"]["code"] == "draining"
    assert rest[-1] == "data: [DONE]"
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_a_model_that_cannot_be_loaded_ends_the_process_in_one_line() -> None:
    with start("--model", "broken", "--port", "0", "--log-level", "error") as process:
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 2
    assert errors == "dyvte serve: --model broken: no such folder; give a model folder\n"


@pytest.mark.parametrize("flags", [["--port", "none"], ["--no-such-flag"], ["--host", "no.such."]])
def test_a_wrong_flag_ends_in_one_line(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(flags) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("dyvte serve: ")
    assert flags[0] in errors
    assert errors.count("\n") == 1


def test_a_port_in_use_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert main(["--port", port]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"dyvte serve: --port {port}: address already in use")
    assert errors.count("\n") == 1


def test_importing_the_app_loads_no_torch() -> None:
    code = "import sys, server.app, server.__main__; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "False", done.stderr
