"""What a prefill and a decode step take at least, and what gates take of a prefill."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dyvte
from benchmarks import exits, floors, limits, machine, results
from benchmarks.floor_report import PREFILL, STEP, Round, Row, Share, Timing, rows, text
from benchmarks.floors import SHAPES, Bench, prefill_flops
from benchmarks.limits import OURS, TORCH, Clock, Limits, Probe
from benchmarks.weights import Case, step_bytes
from dyvte.exits.gate import GateBank
from tests import tiny

ORIGIN = {"cpu": "c", "cores": 2, "date": "2026-01-01", "commit": "abc", "command": "x"}
ORIGIN |= {"threads": 2}


def bench_of(model: dyvte.Model) -> Bench:
    return Bench(model, [tiny.prompt(seed) for seed in range(3)], steps=3)


def round_of(seconds: float, rate: float, bandwidth: float, in_gates: float) -> Round:
    """1000 FLOPs of a prefill of eight, 100 bytes of a decode step of one."""
    found = Limits({TORCH: bandwidth, OURS: bandwidth / 2}, {TORCH: rate / 2, OURS: rate})
    timings = [Timing(PREFILL, 8, seconds, 1000), Timing(STEP, 1, seconds, 100)]
    return Round(found, timings, [Share("compact", 0.01, seconds, in_gates)])


def test_a_prefill_multiplies_each_row_with_those_up_to_it(tiny_model: dyvte.Model) -> None:
    shape = tiny_model.adapter.decoder
    by_rows = sum(shape.layer(1, keys + 1) for keys in range(7))
    assert prefill_flops(shape, 7) == shape.num_layers * by_rows + shape.head(1)


def test_limits_are_the_work_of_the_fastest_over_its_time(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half_a_second(work: Callable[[], object], clock: Clock) -> float:
        work()
        return 0.5

    monkeypatch.setattr(limits, "fastest", half_a_second)
    shape = tiny_model.adapter.decoder
    probe = Probe(shape, torch.float32, 1 << 16, rows=5)
    found = probe.measure()
    assert found.reads[TORCH] == 2 * (1 << 16)
    gate_up = 2 * 5 * 2 * shape.intermediate_size * shape.hidden_size
    assert found.products[TORCH] == 2 * gate_up
    assert found.reads == pytest.approx(dict.fromkeys(found.reads, found.bandwidth), rel=0.1)
    assert set(found.products.values()) == {found.rate}


def test_our_products_are_those_of_torch(tiny_model: dyvte.Model) -> None:
    probe = Probe(tiny_model.adapter.decoder, torch.float32, 1 << 10, rows=5)
    if not probe.in_panels:
        pytest.skip("there are no kernels for this processor here")
    for product in probe.products:
        wanted = torch.nn.functional.linear(product.x_TK, product.weight_NK)
        torch.testing.assert_close(limits._in_panels(product), wanted)


def test_times_the_floor_are_taken_round_by_round() -> None:
    """A machine that was twice as slow in one round was so for both sides."""
    found = rows([round_of(1.3, 1000, 100, 0.0), round_of(2.6, 500, 50, 0.0)])
    assert [(row.what, row.sequences) for row in found] == [(PREFILL, 8), (STEP, 1)]
    for row in found:
        assert (row.times, row.low, row.high) == pytest.approx((1.3, 1.3, 1.3))
        assert row.floor_ms == pytest.approx(1500)


def test_goals_that_are_met_are_bold() -> None:
    rounds = [round_of(1.35, 1000, 100, in_gates=0.02), round_of(1.35, 1000, 100, in_gates=0.03)]
    found = text(rounds, ORIGIN, "tiny", 17)
    assert "| prefill, 8 sequences | 1350 ms | 1000 ms | **1.35** (1.35–1.35) | ≤ 1.4 |" in found
    assert "| decode step, 1 sequence | 1350 ms | 1000 ms | 1.35 (1.35–1.35) | ≤ 1.3 |" in found
    assert "| compact | 25 ms | 1.85% (1.48%–2.22%) | < 1% |" in found
    assert Row(PREFILL, 1, 2.0, 1.0, 2.0, 2.0, 2.0).goal is None


def test_prompts_are_prefilled_together_and_read_what_a_step_reads(
    tiny_model: dyvte.Model,
) -> None:
    bench = bench_of(tiny_model)
    prefill, step = bench.time(2)
    assert prefill.work == 2 * prefill_flops(bench.shape, bench.rows[0])
    assert step.work == step_bytes(tiny_model, bench.prompts[:2], Case("", 2))
    assert min(prefill.seconds, step.seconds) > 0


def test_steps_are_timed_by_the_clock_that_is_given(tiny_model: dyvte.Model) -> None:
    ticks = itertools.count()
    prompts = [tiny.prompt(0)]
    bench = Bench(tiny_model, prompts, steps=3, clock=lambda: float(next(ticks)))
    assert [each.seconds for each in bench.time(1)] == [1.0, 1.0]
    assert next(ticks) == 2 * (1 + 3)
    assert limits.fastest(lambda: None, lambda: float(next(ticks))) == 1.0


def test_every_gate_is_asked_and_none_fires(
    tiny_model: dyvte.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    logits = GateBank.logits

    def noted(bank: GateBank, layer: int, status: torch.Tensor) -> torch.Tensor:
        asked.append(layer)
        return logits(bank, layer, status)

    monkeypatch.setattr(GateBank, "logits", noted)
    own = tiny_model.gates
    bench = bench_of(tiny_model)
    for gates in SHAPES:
        share = bench.ask(gates)
        assert 0 < share.in_gates < share.seconds
    assert asked == len(SHAPES) * list(range(tiny.LAYERS - 1))
    assert tiny_model.gates is own


def test_a_disturbed_round_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = [0.0, 0.9, 0.1, 0.9, 0.9]
    monkeypatch.setattr(machine.Strangers, "cores", lambda _: busy.pop(0))
    runs = iter(range(9))
    assert machine.quiet_rounds(lambda: next(runs), 2) == [0, 2]
    with pytest.raises(RuntimeError, match="too busy"):
        machine.quiet_rounds(lambda: next(runs), 1)
    assert busy == []


def test_figures_are_written_and_their_tables_put_into_a_page(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "QUESTION_WORDS", 6)
    page, out = tmp_path / "page.md", tmp_path / "runs" / "floors.json"
    page.write_text("before\n<!-- floors -->\nold\n<!-- /floors -->\nafter\n")
    floors.main(f"--model {tiny_folder} --sequences 1 2 --rounds 2 --busy --out {out}".split())
    results.main([str(out), "--page", str(page)])
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    cases = [(row["what"], row["sequences"]) for row in found["rows"]]
    assert cases == [(what, count) for count in (1, 2) for what in (PREFILL, STEP)]
    assert all(0 < row["low"] <= row["times"] <= row["high"] for row in found["rows"])
    assert len(found["rounds"]) == 2
    told = page.read_text(encoding="utf-8")
    assert told.startswith("before\n")
    assert told.endswith("after\n")
    assert "old" not in told
    assert told.count("sequences |") == 2
