"""A batch over the fake engine: every line once, whatever stops a run, and nobody turned away.

``python -m tests.server.batch.test_run INPUT OUTPUT`` is a run that a test can kill.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dyvte.engine.events import EngineRequest
from dyvte.errors import EngineDied
from server.batch.account import Account
from server.batch.command import DOOR, answer_file, at_once, batch_settings, urls_of
from server.batch.run import BatchStopped
from server.settings import ConfigError, Settings
from tests.server.examples import CHAT, body
from tests.server.fake_engine import FakeEngine
from tests.server.running import until

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.anyio


def written(path: Path, count: int, **fields: Any) -> Path:
    """A batch of ``count`` chats."""
    rows = [
        {"custom_id": f"r{k}", "method": "POST", "url": CHAT, "body": body(f"number {k}", **fields)}
        for k in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answers(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def ids(path: Path) -> list[str]:
    return sorted(each["custom_id"] for each in answers(path))


async def batch(
    source: Path, target: Path, engine: FakeEngine | None = None, **typed: Any
) -> Account:
    fake = engine or FakeEngine()
    return await answer_file(source, target, batch_settings(typed), opening=lambda: fake)


class Busiest(FakeEngine):
    """Knows how many requests it ran together."""

    most = 0

    def submit(self, request: EngineRequest) -> Any:
        self.most = max(self.most, len(self.running) + 1)
        return super().submit(request)


async def test_every_line_is_answered_many_at_a_time_and_counted(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", 60), tmp_path / "out"
    engine = Busiest(step_s=0.002)
    account = await batch(source, target, engine, max_num_seqs=8)
    assert ids(target) == sorted(f"r{k}" for k in range(60))
    said = {each["custom_id"]: each["response"] for each in answers(target)}
    assert {each["status_code"] for each in said.values()} == {200}
    assert said["r7"]["body"]["choices"][0]["message"]["content"] == "Hello, world."
    assert len({each["request_id"] for each in said.values()}) == 60
    assert 8 < engine.most <= at_once(batch_settings({"max_num_seqs": 8}))
    assert (account.answered, account.failed, account.done) == (60, 0, 60)
    usage = [each["body"]["usage"] for each in said.values()]
    assert account.prompt_tokens == sum(each["prompt_tokens"] for each in usage)
    assert account.completion_tokens == sum(each["completion_tokens"] for each in usage)
    flops = [each["body"]["dyvte"]["flops"] for each in said.values()]
    assert account.baseline - account.flops == sum(each["saved"] for each in flops)


async def test_a_full_house_turns_no_line_away(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", 12), tmp_path / "out"
    account = await batch(source, target, FakeEngine(step_s=0.001, capacity=2), max_num_seqs=8)
    assert (account.answered, account.failed) == (12, 0)


async def test_bad_lines_fail_alone_in_openais_form(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", 2), tmp_path / "out"
    refused = {"custom_id": "r9", "method": "POST", "url": CHAT, "body": body(temperature=9)}
    with source.open("a", encoding="utf-8") as file:
        file.write(json.dumps(refused) + "\n{torn\n")
    account = await batch(source, target)
    found = {each["custom_id"]: each for each in answers(target)}
    assert (account.answered, dict(account.errors)) == (2, {"400": 1, "invalid_json_line": 1})
    assert found["r9"]["response"]["status_code"] == 400
    assert found["r9"]["response"]["body"]["error"]["param"] == "temperature"
    assert found["r9"]["error"] is None
    assert found[None]["error"]["line"] == 4
    again = await batch(source, target)
    assert (again.earlier, again.answered, again.failed) == (4, 0, 0)
    assert len(answers(target)) == 4


async def test_an_engine_that_dies_leaves_the_rest_for_the_next_run(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", 20), tmp_path / "out"
    engine = FakeEngine(step_s=0.001)

    async def dies() -> None:
        while len(engine.requests) < 8:
            await asyncio.sleep(0.001)
        engine.fail_submit = EngineDied("the engine died")

    death = asyncio.create_task(dies())
    with pytest.raises(BatchStopped, match=r"has stopped\. Run it again"):
        await batch(source, target, engine, max_num_seqs=1)
    await death
    before = len(answers(target))
    assert 0 < before < 20
    account = await batch(source, target)
    assert (account.earlier, account.answered) == (before, 20 - before)
    assert ids(target) == sorted(f"r{k}" for k in range(20))


async def test_bodies_in_flight_are_bounded_in_bytes(tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    asked = body("x" * 400)
    rows = [{"custom_id": str(k), "method": "POST", "url": CHAT, "body": asked} for k in range(12)]
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    engine = Busiest(step_s=0.002)
    account = await batch(source, target, engine, max_bodies=2048)
    assert account.answered == 12
    assert engine.most == 2048 // len(json.dumps(asked, separators=(",", ":"))) == 4


def test_a_killed_run_is_gone_on_with(tmp_path: Path) -> None:
    source, target = written(tmp_path / "in", 150), tmp_path / "out"
    command = [sys.executable, "-m", "tests.server.batch.test_run", str(source), str(target)]
    for done in (1, 40):
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                until(partial(has_answers, target, done), seconds=60)
            finally:
                process.kill()
    left = len(answers_whole(target))
    assert 40 <= left < 150
    account = asyncio.run(batch(source, target))
    assert (account.earlier, account.answered, account.strangers) == (left, 150 - left, 0)
    assert ids(target) == sorted(f"r{k}" for k in range(150))


def has_answers(path: Path, count: int) -> bool:
    return path.exists() and len(answers_whole(path)) >= count


def answers_whole(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().splitlines(True) if line.endswith(b"\n")]


async def test_answers_to_other_lines_are_told(tmp_path: Path) -> None:
    target = tmp_path / "out"
    await batch(written(tmp_path / "in", 3), target)
    account = await batch(written(tmp_path / "in", 1), target)
    assert (account.earlier, account.strangers) == (1, 2)


async def test_a_batch_has_no_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key or a shadow share that the environment sets for servers does not reach it."""
    monkeypatch.setenv("DYVTE_API_KEY", "secret")
    monkeypatch.setenv("DYVTE_SHADOW_SHARE", "1")
    assert batch_settings({}).shadow_share == 0
    account = await batch(written(tmp_path / "in", 2), tmp_path / "out")
    assert account.answered == 2
    assert {"host", "api_key", "max_waiting"} <= DOOR & Settings.model_fields.keys()


async def test_every_generating_route_can_be_named() -> None:
    from server.app import create_app

    urls = urls_of(create_app(Settings(), FakeEngine))
    assert urls == {CHAT, "/v1/completions", "/v1/responses"}


async def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path: Path) -> None:
    def fails() -> FakeEngine:
        raise ConfigError("gates: none")

    source, target = written(tmp_path / "in", 1), tmp_path / "out"
    with pytest.raises(ConfigError, match="--model demo: cannot be served"):
        await answer_file(source, target, batch_settings({}), opening=fails)


async def test_no_model_is_loaded_when_nothing_is_left_to_ask(tmp_path: Path) -> None:
    def opened() -> FakeEngine:
        raise AssertionError("the model was loaded")

    source, target = written(tmp_path / "in", 2), tmp_path / "out"
    await batch(source, target)
    with source.open("a", encoding="utf-8") as file:
        file.write("{torn\n")
    account = await answer_file(source, target, batch_settings({}), opening=opened)
    assert (account.earlier, account.failed, account.done) == (2, 1, 3)
    assert answers(target)[2]["error"]["line"] == 3


if __name__ == "__main__":
    slow = FakeEngine(step_s=0.01)
    settings = batch_settings({"max_num_seqs": 4})
    asyncio.run(answer_file(Path(sys.argv[1]), Path(sys.argv[2]), settings, opening=lambda: slow))
