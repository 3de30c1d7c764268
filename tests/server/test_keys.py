"""Keys: several, from a file that is read again, and no route that forgets to ask for one."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest
from starlette.routing import BaseRoute, Mount, Route

from server import keys as module
from server.api import playground
from server.app import create_app
from server.keys import Client, Keyring, parse_keys
from server.settings import ConfigError, Settings
from tests.server.conftest import Connect
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine

pytestmark = pytest.mark.anyio

# The page's own files are the same on every server and tell nothing of this one.
OPEN = {"/health", "/ready", "/metrics", *playground.open_paths()}


def test_a_file_names_keys_and_their_limits() -> None:
    text = (
        "# keys\nsk-1 alice concurrent=4 per_minute=60\n\nsk-2  # nobody's name\nsk-3 per_minute=1"
    )
    assert list(parse_keys(text, "keys").values()) == [
        Client("alice", 4, 60),
        Client("line-4"),
        Client("line-5", None, 1),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no key"),
        ("# all gone", "holds no key"),
        ("k a concurrent=0", "line 1: write KEY"),
        ("k a\nj b rate=1", "line 2: write KEY"),
        ("k a per_minute=many", "line 1: write KEY"),
        ("k a\nk b", "line 2: key or name is there twice"),
        ("k a\nj a", "line 2: key or name is there twice"),
    ],
)
def test_a_line_that_says_nothing_sensible_is_named(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        parse_keys(text, "keys")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--api-key-file"):
        create_app(Settings(api_key_file=tmp_path / "none"), FakeEngine)


def rewrite(path: Path, text: str) -> None:
    """As an editor or a mounted secret does: a new file in the place of the old one."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


def test_keys_come_and_go_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("old alice")
    ring = Keyring(["fixed"], path)
    assert ring.holder("old") == Client("alice")
    rewrite(path, "new alice")
    assert ring.holder("old") is None
    assert ring.holder("new") == Client("alice")
    assert ring.holder("fixed") == Client("key-1")


@pytest.mark.parametrize("broken", ["", "k a concurrent=0", None])
def test_a_file_that_breaks_leaves_the_old_keys_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str | None
) -> None:
    """An empty file must neither lock everybody out nor open the door."""
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)
    path = tmp_path / "keys"
    path.write_text("old alice")
    ring = Keyring((), path)
    if broken is None:
        path.unlink()
    else:
        rewrite(path, broken)
    for _ in range(2):
        assert ring.guards
        assert ring.holder("old") == Client("alice")
        assert ring.holder("other") is None
    rewrite(path, "new bob")
    assert ring.holder("new") == Client("bob")


def test_every_key_is_compared_whole_and_in_constant_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watched(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    ring = Keyring(["first", "second-which-is-longer", "third"])
    monkeypatch.setattr(hmac, "compare_digest", watched)
    for given in ("first", "third", "nobody's", "", "f\udcff"):
        compared.clear()
        ring.holder(given)
        assert compared == [(32, 32)] * 3


def paths_of(routes: list[BaseRoute]) -> list[tuple[str, str]]:
    """Method and path of every route that an app has, whoever added it."""
    found: list[tuple[str, str]] = []
    for route in routes:
        if isinstance(route, Mount):
            inner = paths_of(list(route.routes)) or [("GET", "/anything")]
            found += [(method, route.path + path) for method, path in inner]
        elif isinstance(route, Route):
            path = route.path.replace("{model:path}", "demo")
            found += [(method, path) for method in route.methods or {"GET"}]
        else:
            raise AssertionError(f"a route of an unknown kind: {route!r}")
    return found


@pytest.mark.parametrize("source", ["flag", "file"])
async def test_no_route_that_exists_is_unguarded(
    connect: Connect, tmp_path: Path, source: str
) -> None:
    """vLLM guarded a prefix, and its other routes stood open."""
    path = tmp_path / "keys"
    path.write_text("right alice")
    settings = {"api_key": "right"} if source == "flag" else {"api_key_file": path}
    routes = paths_of(create_app(Settings.model_validate(settings), FakeEngine).routes)
    assert {("POST", CHAT), ("GET", "/docs"), ("GET", "/openapi.json")} <= {*routes}
    assert not OPEN & {"/docs", "/openapi.json", "/version", "/v1/models"}
    async with connect(**settings) as client:
        for method, route in routes:
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic right"}):
                reply = await client.request(method, route, headers=header)
                assert (reply.status_code == 401) is (route not in OPEN), (method, route)
            reply = await client.request(method, route, headers={"authorization": "Bearer right"})
            assert reply.status_code != 401, (method, route)


async def test_without_a_playground_nothing_of_it_is_served_or_open(connect: Connect) -> None:
    right = {"authorization": "Bearer right"}
    async with connect(api_key="right", playground=False) as client:
        for path in (*playground.open_paths(), "/docs"):
            assert (await client.get(path)).status_code == 401, path
            assert (await client.get(path, headers=right)).status_code == 404, path
        assert (await client.get("/openapi.json", headers=right)).status_code == 200


async def test_each_holder_has_caches_of_its_own(connect: Connect, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-1 alice\nsk-2 bob\n")
    engine = FakeEngine()
    async with connect(engine, api_key_file=file) as client:
        for key in ("sk-1", "sk-2", "sk-1"):
            reply = await client.post(CHAT, json=body(), headers={"Authorization": f"Bearer {key}"})
            assert reply.status_code == 200
    assert [request.cache_salt for request in engine.requests] == ["alice", "bob", "alice"]


async def test_metrics_are_open_or_not_as_the_operator_says(connect: Connect) -> None:
    async with connect(api_key="right", metrics_key=True) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize("path", ["//health", "/health/", "/HEALTH", "/%68ealth%2f"])
async def test_an_open_path_is_open_as_it_is_written_only(connect: Connect, path: str) -> None:
    async with connect(api_key="right") as client:
        assert (await client.get(f"http://test{path}")).status_code == 401


async def test_the_holder_s_name_is_logged_and_the_key_is_not(
    connect: Connect, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    path.write_text("sk-secret alice")
    async with connect(api_key_file=path) as client:
        await client.post(CHAT, json=body(), headers={"authorization": "Bearer sk-secret"})
    log = capsys.readouterr().out
    assert "client=alice" in log
    assert "sk-secret" not in log
