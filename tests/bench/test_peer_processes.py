"""Servers as processes: started once, paused while others are measured, ended with all of them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.machine import Strangers
from benchmarks.peers.processes import Fleet, ServerFailed
from benchmarks.peers.servers import Server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder that any file server turns into a list of models."""
    models = tmp_path / "v1" / "models"
    models.parent.mkdir()
    models.write_text("{}")
    return tmp_path


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path / "logs")
    yield found
    found.stop()


def server(name: str, site: Path) -> Server:
    """A shell whose child serves ``site``, as servers do that start workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"{sys.executable} -m http.server --directory {site} --bind 127.0.0.1 {port}; true"
    return Server(name, ("/bin/sh", "-c", command), port, "m")


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_only_the_server_under_test_can_run(fleet: Fleet, site: Path) -> None:
    first, second = server("first", site), server("second", site)
    one = fleet.only(first)
    assert one.start_seconds > 0
    assert len(one.members()) == 2
    two = fleet.only(second)
    assert {state(each.pid) for each in one.members()} == {"T"}
    assert "T" not in {state(each.pid) for each in two.members()}
    assert fleet.only(first) is one
    assert "T" not in {state(each.pid) for each in one.members()}
    assert one.memory_bytes() > 1 << 20
    assert one.cpu_seconds() > 0


def test_stopping_ends_what_a_server_started(fleet: Fleet, site: Path) -> None:
    found = fleet.only(server("first", site))
    assert len(found.members()) == 2
    found.pause()
    fleet.stop()
    assert found.members() == []


def test_a_server_that_ends_is_told_with_its_log(fleet: Fleet, tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match=r"bad ended with 3: see .*bad\.log"):
        fleet.only(Server("bad", ("/bin/sh", "-c", "exit 3"), 9, "m"))
    assert fleet.running == {}


def test_a_port_that_is_taken_is_told(fleet: Fleet, site: Path) -> None:
    first = server("first", site)
    fleet.only(first)
    with pytest.raises(ServerFailed, match=f"port {first.port} is taken"):
        fleet.only(Server("second", first.command, first.port, "m"))


def test_what_is_measured_is_no_stranger() -> None:
    assert Strangers(own=lambda: 1e9 * os.times().elapsed).cores() == 0.0
