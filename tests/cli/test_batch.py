"""`dyvte batch` with the demo model: the server's answers, one-line errors, an account."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from dyvte.cli import main
from tests.e2e.in_process import connected

PICTURE = Path(__file__).parents[2] / "docs/picture.png"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


def ask(text: str, picture: bool = True) -> dict[str, Any]:
    """A greedy chat, with a picture or without."""
    url = "data:image/png;base64," + base64.b64encode(PICTURE.read_bytes()).decode()
    shown = [{"type": "image_url", "image_url": {"url": url}}] if picture else []
    content = [*shown, {"type": "text", "text": text}]
    messages = [{"role": "user", "content": content}]
    return {"model": "demo", "messages": messages, "max_tokens": 6, "temperature": 0}


ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "circle": (CHAT, ask("What color is the circle?")),
    "square": (CHAT, {**ask("What color is the square?"), "dyvte": {"policy": "off"}}),
    "text": (CHAT, ask("Hello?", picture=False)),
    "response": (
        "/v1/responses",
        {"model": "demo", "input": "Hello?", "max_output_tokens": 6, "temperature": 0},
    ),
    "goes-on": (TEXT, {"model": "demo", "prompt": "The circle", "max_tokens": 4, "temperature": 0}),
    "wrong": (CHAT, {**ask("What?"), "model": "gpt-4o"}),
}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log stays pytest's."""
    monkeypatch.setattr("server.logs.configure_logs", lambda level, form: None)


def said(body: dict[str, Any]) -> Any:
    """What does not change from run to run."""
    if body.get("error"):
        return body["error"]["code"]
    chosen = [choice.get("message", choice.get("text")) for choice in body.get("choices", ())]
    chosen += [item["content"] for item in body.get("output", ())]
    return chosen, body["usage"], body["dyvte"]["exit_layer"], body["dyvte"]["flops"]["total"]


async def served() -> dict[str, Any]:
    async with connected(model="demo", image_cache_memory=0, prefix_cache_memory=0) as client:
        replies = [await client.post(url, json=body) for url, body in ASKED.values()]
    return dict(zip(ASKED, (said(reply.json()) for reply in replies), strict=True))


def test_answers_are_the_servers_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [
        {"custom_id": name, "method": "POST", "url": url, "body": body}
        for name, (url, body) in ASKED.items()
    ]
    source.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    flags = ["--dtype", "float32", "--device", "cpu"]
    flags += ["--image-cache-memory", "0", "--prefix-cache-memory", "0"]
    assert main(["batch", "--input", str(source), "--output", str(target), *flags]) == 0
    printed = capsys.readouterr().out
    lines = [json.loads(line) for line in target.read_text("utf-8").splitlines()]
    answers = {line["custom_id"]: line["response"]["body"] for line in lines}
    assert {name: said(body) for name, body in answers.items()} == asyncio.run(served())
    assert "red" in answers["circle"]["choices"][0]["message"]["content"].lower()
    assert "6 lines: 5 answered, 1 errors; " in printed
    assert "error: 1 × model_not_found, for example: The model 'gpt-4o' does not exist" in printed
    usage = [body["usage"] for body in answers.values() if "usage" in body]
    prompts = sum(each.get("prompt_tokens") or each["input_tokens"] for each in usage)
    made = sum(each["total_tokens"] for each in usage) - prompts
    assert f"tokens: {prompts:,} of prompts, {made:,} of answers" in printed
    flops = [body["dyvte"]["flops"] for body in answers.values() if "dyvte" in body]
    ratio = sum(each["saved"] for each in flops) / sum(each["baseline"] for each in flops)
    assert f"(saved {ratio:.0%})" in printed


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--output", "x"], "the following arguments are required: --input"),
        (["--input", "gone", "--output", "x"], "--input gone: is no file; give JSON lines"),
        (["--input", __file__, "--output", __file__], f"--output {__file__}: is the input"),
        (["--input", __file__, "--output", "/"], "--output /: is no file; give one"),
        (["--input", __file__, "--output", "/no/such/x"], "/no/such/x: No such file"),
        (["--input", __file__, "--output", "x", "--port", "1"], "unknown option --port"),
        (["--input", __file__, "--output", "x", "--max-n", "0"], "--max-n 0: input should be"),
        (["--input", "asks", "--output", "x", "--model", "/no"], "--model /no: "),
    ],
)
def test_a_slip_is_one_line(
    flags: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    row = {"custom_id": "a", "method": "POST", "url": CHAT, "body": ask("Hello?", picture=False)}
    Path("asks").write_text(json.dumps(row), encoding="utf-8")
    assert main(["batch", *flags]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"dyvte batch: {told}")
    assert errors.count("\n") == 1
