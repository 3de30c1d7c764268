"""The GPU's benchmark, run on a CPU with the smallest model, so that no minute of a GPU is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_table import FILE, Row, table
from benchmarks.model import PRESETS, Preset, Tower, drawn
from benchmarks.weights import Case, step_bytes
from dyvte.varlen import VarlenAttention
from tests.paged_kernel import paged_kernel

DRY = Preset(Tower(32, 64, 2, 2), Tower(32, 64, 4, 2), 300, image_size=28)
COMMAND = "--preset dry --device cpu --dtype float32 --sequences 1 3 --seen 2 1 --steps 3".split()


@pytest.fixture(autouse=True)
def dry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "dry", DRY)
    monkeypatch.setattr(gpu, "GIB", 1 << 20)


def test_one_command_writes_every_case_as_json_and_as_a_table(tmp_path: Path) -> None:
    gpu.main([*COMMAND, "--rounds", "2", "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / f"{FILE}.json").read_text(encoding="utf-8"))
    cases = [(row["requests"], row["seen"]) for row in found["rows"]]
    assert cases == [(count, seen) for count in (1, 3) for seen in (None, 2, 1)]
    for row in found["rows"]:
        numbers = [value for name, value in row.items() if name != "seen"]
        assert min(numbers) > 0
    assert found["provenance"]["device"] == "cpu"
    assert found["device"]["rows"] == 60
    lines = (tmp_path / "out" / f"{FILE}.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 + len(cases)
    assert len({line.count("|") for line in lines}) == 1


def test_more_rows_than_a_group_of_the_server_are_prefilled_together() -> None:
    """Thirty-two prompts of LLaVA-1.5 have 20,000 rows, a group of the server at most 8,192."""
    model = drawn("dry", torch.device("cpu"), "float32", seed=0)
    prompts = gpu.prompts_of(DRY, 3, seed=0)
    core = gpu.engine_for(model, model.adapter.layout(prompts[0]).rows, 3, steps=2)
    core.scheduler.limits = type(core.scheduler.limits)(3, 60)
    with pytest.raises(RuntimeError, match="1 of 3 requests"):
        gpu.run(core, prompts, Case("none", 3), 2)


@pytest.mark.parametrize("rounds", [1])
def test_it_runs_over_pages_and_decode_graphs_as_on_cuda(
    rounds: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attention = VarlenAttention(paged_kernel)
    monkeypatch.setattr("dyvte.engine.build.choose_backend", lambda *_: attention)
    gpu.main([*COMMAND, "--rounds", str(rounds)])
    told = capsys.readouterr().out
    assert "decode_graphs  True" in told
    assert told.count("| all 4 |") == 2


def test_floors_are_flops_over_the_rate_and_bytes_over_the_bandwidth() -> None:
    model = drawn("dry", torch.device("cpu"), "float32", seed=0)
    prompts = gpu.prompts_of(DRY, 2, seed=0)
    adapter: Any = model.adapter
    row = 2 * adapter.decoder.kv_dim * 4
    none, two = (step_bytes(model, prompts, Case("", 2, at)) for at in (None, 1))
    assert none == adapter.decoder_bytes() + 2 * 4 * 60 * row
    assert none - two == 2 * 2 * DRY.image_tokens * row


def test_what_is_not_saved_is_not_realised() -> None:
    same = Row(1, None, 1.0, 2.0, 1.0, 1.0, 1.0, 3.0, 1.5, 1.0, 10**6)
    half = Row(1, 16, 1.0, 1.2, 0.5, 0.6, 0.5, 3.0, 1.5, 1.0, 10**6)
    assert same.realised is None
    assert half.realised == pytest.approx(0.8)
    assert "| 80% |" in table([half], 32)
    assert "| 16 of 32 |" in table([half], 32)


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA device"):
        gpu.main([])
