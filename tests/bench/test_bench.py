"""The load generator against a fake server: what it measures, and what it says when it cannot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dyvte.cli import main
from tests.bench.fake_server import FakeServer, running

REPORT = {"policy": "gate", "exit_layer": 11, "flops": {"saved_ratio": 0.4}}


def bench(url: str, *flags: str) -> int:
    return main(["bench", "--base-url", url, "--max-tokens", "4", "--image-size", "32", *flags])


def figures(url: str, tmp_path: Path, *flags: str) -> dict[str, Any]:
    out = tmp_path / "out.json"
    assert bench(url, "--json", str(out), *flags) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_run_reports_latency_throughput_and_tokens(tmp_path: Path) -> None:
    with running(FakeServer(first_s=0.03, gap_s=0.01)) as url:
        summary = figures(url, tmp_path, "--requests", "6", "--concurrency", "2")["summary"]
    assert (summary["requests"], summary["failed"]) == (6, 0)
    assert summary["ttft"]["p50"] >= 0.03
    assert summary["itl"]["p50"] >= 0.01
    assert summary["tpot"]["p50"] >= 0.01
    assert summary["e2e"]["p50"] >= 0.06
    assert summary["e2e"]["p50"] <= summary["e2e"]["p90"] <= summary["e2e"]["p99"]
    assert summary["output_tokens_mean"] == 4
    assert summary["prompt_tokens_mean"] == 620
    rates = summary["tokens_per_second"] / summary["requests_per_second"]
    assert rates == pytest.approx(4)


def test_warm_up_requests_are_sent_and_not_counted(tmp_path: Path) -> None:
    server = FakeServer()
    with running(server) as url:
        summary = figures(url, tmp_path, "--requests", "3", "--warmup", "2")["summary"]
    assert summary["requests"] == 3
    assert len(server.requests) == 5


def test_a_closed_loop_keeps_so_many_open_and_no_more() -> None:
    server = FakeServer(first_s=0.2)
    with running(server) as url:
        assert bench(url, "--requests", "9", "--concurrency", "3", "--warmup", "0") == 0
    assert server.most_at_once == 3


def test_an_open_loop_does_not_wait_for_answers() -> None:
    server = FakeServer(first_s=0.6)
    with running(server) as url:
        assert bench(url, "--requests", "6", "--rate", "200", "--warmup", "0") == 0
    assert server.most_at_once == 6


def test_times_of_an_open_loop_count_from_when_a_request_was_due(tmp_path: Path) -> None:
    flags = ("--requests", "4", "--rate", "1000", "--concurrency", "1", "--warmup", "0")
    with running(FakeServer(first_s=0.1)) as url:
        summary = figures(url, tmp_path, *flags)["summary"]
    # One at a time, the last waits for three others before it is sent.
    assert summary["ttft"]["p99"] > 0.3


def test_every_request_has_its_own_words_and_picture() -> None:
    server = FakeServer()
    with running(server) as url:
        assert bench(url, "--requests", "3", "--warmup", "1", "--ignore-eos") == 0
    contents = [json.dumps(request["messages"]) for request in server.requests]
    assert len(set(contents)) == 4
    assert all("data:image/png;base64," in content for content in contents)
    assert all(request["stream"] and request["ignore_eos"] for request in server.requests)


def test_the_same_seed_asks_the_same_again() -> None:
    seen = []
    for _ in range(2):
        server = FakeServer()
        with running(server) as url:
            assert bench(url, "--requests", "2", "--seed", "5", "--concurrency", "1") == 0
        seen.append([request["messages"] for request in server.requests[2:]])
    assert seen[0] == seen[1]


def test_a_picture_of_ones_own_or_none(tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    Image.new("RGB", (8, 8)).save(path)
    server = FakeServer()
    with running(server) as url:
        assert bench(url, "--requests", "1", "--warmup", "0", "--image", str(path)) == 0
        assert bench(url, "--requests", "1", "--warmup", "0", "--text-only") == 0
    own, none = (request["messages"][0]["content"] for request in server.requests)
    assert own[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert [part["type"] for part in none] == ["text"]


def test_extra_goes_into_every_body_and_replaces_what_stood_there() -> None:
    server = FakeServer()
    extra = '{"dyvte": {"aggressiveness": 0.5}, "temperature": 1}'
    with running(server) as url:
        assert bench(url, "--requests", "1", "--extra", extra) == 0
    for request in server.requests:
        assert request["dyvte"] == {"aggressiveness": 0.5}
        assert request["temperature"] == 1


def test_exits_of_our_own_servers_are_averaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(FakeServer(dyvte=REPORT)) as url:
        exits = figures(url, tmp_path, "--requests", "2")["summary"]["exits"]
    assert exits["saved_ratio_mean"] == pytest.approx(0.4)
    assert exits["exit_layers"] == {"11": 2}
    assert "mean exit layer 11.0" in capsys.readouterr().out


def test_a_server_without_usage_or_exits_is_measured_by_its_chunks(tmp_path: Path) -> None:
    with running(FakeServer(usage=False)) as url:
        summary = figures(url, tmp_path, "--requests", "2")["summary"]
    assert summary["output_tokens_mean"] == 4
    assert summary["prompt_tokens_mean"] is None
    assert summary["exits"] is None


def test_an_answer_without_text_has_the_time_of_its_end(tmp_path: Path) -> None:
    with running(FakeServer()) as url:
        summary = figures(url, tmp_path, "--requests", "2", "--model", "mute")["summary"]
    assert summary["failed"] == 0
    assert summary["ttft"] is not None
    assert summary["tpot"] is None


def test_json_on_standard_output_is_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    with running(FakeServer(key="secret")) as url:
        assert bench(url, "--requests", "2", "--api-key", "secret", "--json", "-") == 0
    printed = capsys.readouterr().out
    found = json.loads(printed)
    assert found["provenance"]["command"].startswith("dyvte bench --base-url")
    assert found["workload"]["model"] == "fake"
    assert "secret" not in printed


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("--model", "full"), "all 2 requests failed: HTTP 429: queue full"),
        (("--model", "breaks"), "all 2 requests failed: the step raised"),
        (("--api-key", "wrong"), "--api-key: the server refuses it (pass the server's key)"),
        (("--image", "nowhere.png"), "nowhere.png: No such file or directory (check the path)"),
        (("--json", "no/such/folder.json"), "no/such/folder.json: No such file"),
        (("--extra", "[1]"), "--extra: must be a JSON object"),
        (("--extra", "{"), "--extra: is not JSON"),
        (("--requests", "0"), "--requests: must be at least 1, not 0"),
        (("--rate", "-1"), "--rate: must be a number above 0"),
        (("--concurency", "2"), "unknown option --concurency (did you mean --concurrency?)"),
        (("--image", "a.png", "--text-only"), "--text-only: not allowed with argument --image"),
    ],
)
def test_what_goes_wrong_is_one_line(
    flags: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(FakeServer()) as url:
        assert bench(url, "--requests", "2", *flags) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"dyvte bench: {line}")
    assert error.count("\n") == 1


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("http://127.0.0.1:9/v1") == 2
    assert "make serve" in capsys.readouterr().err
