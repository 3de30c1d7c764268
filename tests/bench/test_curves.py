"""The cost curves' points: which are missing, what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import curves
from benchmarks.curve_report import draw, text
from benchmarks.curves import (
    BATCHES,
    SEEN_LAYERS,
    VISUAL_TOKENS,
    _repeated,
    measure,
    parse,
    places,
    preset_of,
)
from benchmarks.model import PRESETS
from benchmarks.peers.compare import compare
from benchmarks.peers.plots import draw as draw_bars
from benchmarks.peers.processes import ServerFailed
from benchmarks.peers.workloads import WORKLOADS
from benchmarks.points import BATCH, LAYERS, START, TOKENS, Place, Point, Points
from dyvte.bench.load import Run
from tests.bench.test_gpu import DRY
from tests.bench.test_peers import answer, record

SESSION = {
    "cpu": "c",
    "cores": 2,
    "date": "2026-01-01",
    "commit": "abc",
    "command": "x",
    "threads": 2,
}


def point(place: Place, others: float = 0.0) -> Point:
    """As if every layer that sees the image took a millisecond a token."""
    cost = place.seen * max(1, place.x) / 1000
    return Point(
        **place._asdict(),
        kept=others <= 0.15,
        others=others,
        seconds=cost,
        prefill=cost,
        step=0.01,
        kv_bytes=place.seen << 20,
        prefill_flops=place.seen * 1000,
        memory_bytes=1 << 30,
    )


def filled(folder: Path) -> Points:
    points = Points(folder)
    points.open_session(SESSION)
    for curve in (TOKENS, BATCH, LAYERS, START):
        for place in places(curve, 2):
            points.append(point(place))
    return points


def test_every_round_has_every_point_once() -> None:
    assert len(set(places(TOKENS, 2))) == 2 * len(VISUAL_TOKENS) * 3
    assert len(set(places(BATCH, 1))) == 2 * len(BATCHES)
    assert [place.seen for place in places(LAYERS, 1)] == list(SEEN_LAYERS)
    assert len(list(places(START, 3))) == 3


def test_a_disturbed_point_is_taken_again_and_left_out(tmp_path: Path) -> None:
    points = Points(tmp_path)
    points.open_session(SESSION)
    others = [0.4, 0.1, 0.9, 0.9, 0.9]
    first, second = list(places(LAYERS, 1))[:2]
    assert _repeated(first, lambda place, _: point(place, others.pop(0)), points)
    assert not _repeated(second, lambda place, _: point(place, others.pop(0)), points)
    assert others == []
    assert list(points.kept()) == [first]
    assert points.kept()[first].session == "0"


def test_tables_have_medians_and_shares(tmp_path: Path) -> None:
    points = filled(tmp_path)
    extra = Place(BATCH, 8, 16, 2)
    points.append(replace(point(extra), seconds=9.0))
    assert points.medians(BATCH, lambda each: each.seconds)[16][8] == 8 * 16 / 1000
    found = text(points)
    assert "commit abc" in found
    assert "| 8 | 64 | 0.250 | 0.500 | 10.0 | 8.0 |" in found
    assert "| no exit | 2304 | 4608 | 9216 |" in found
    assert "1024 MiB" in found


def test_the_pictures_are_drawn(tmp_path: Path) -> None:
    draw(filled(tmp_path), tmp_path / "curves.png")
    rows = compare(
        [record(name, WORKLOADS["W1"], Run((answer(),), 1.0)) for name in ("ours off", "fast")],
        ["fast"],
    )
    draw_bars(rows, ["ours off", "fast"], ["fast"], tmp_path / "peers.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("curves.png", "peers.png"))
    draw(Points(tmp_path / "none"), tmp_path / "empty.png")


def test_every_point_has_a_round_before_any_has_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the time ends early, what there is covers all curves."""
    monkeypatch.setattr(curves, "_taker", lambda *_: lambda place, _: point(place))
    args = parse(["--rounds", "2"])
    points = Points(tmp_path)
    points.open_session(SESSION)
    assert measure(parse(["--rounds", "2", "--minutes", "-1"]), points) == 2 * 41
    assert points.read() == []
    assert measure(args, points) == 0
    rounds = [each.round for each in points.read()]
    assert rounds == sorted(rounds)
    assert measure(args, points) == 0
    assert len(points.read()) == 2 * 41


def test_a_server_that_does_not_start_leaves_the_other_points_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(place: Place, salt: str) -> Point:
        if place.curve == START:
            raise ServerFailed("port 8120 is taken")
        return point(place)

    monkeypatch.setattr(curves, "_taker", lambda *_: take)
    points = Points(tmp_path)
    points.open_session(SESSION)
    assert measure(parse(["--rounds", "1", "--curves", START, LAYERS]), points) == 1
    assert {place.curve for place in points.kept()} == {LAYERS}


def test_one_command_measures_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "dry", DRY)
    monkeypatch.setattr(curves, "BATCHES", (1, 3))
    page, figure = tmp_path / "page.md", tmp_path / "curves.png"
    page.write_text("<!-- curves -->\n<!-- /curves -->\n")
    command = f"--preset dry --models {tmp_path} --curves layers batch --rounds 1"
    command += f" --busy --out {tmp_path / 'out'}"
    assert curves.main(command.split()) == 0
    assert curves.main(f"{command} --report --page {page} --figure {figure}".split()) == 0
    kept = Points(tmp_path / "out").kept()
    assert len(kept) == 3 + 2 * 2
    assert all(each.prefill > 0 and each.step > 0 for each in kept.values())
    seen = {place.x: each for place, each in kept.items() if place.curve == LAYERS}
    assert seen[1].kv_bytes < seen[2].kv_bytes < seen[4].kv_bytes
    assert seen[1].prefill_flops < seen[2].prefill_flops < seen[4].prefill_flops
    told = page.read_text(encoding="utf-8")
    assert "![The same as curves](curves.png)" in told
    assert "7 points kept, 0 discarded" in told


def test_other_presets_have_curves_of_their_own_depth() -> None:
    assert [place.x for place in places(LAYERS, 1, depth=8)] == [1, 2, 4, 5, 6, 8]
    whole = [place.x for place in places(TOKENS, 1, depth=8, per_image=576)]
    assert sorted(set(whole)) == [576, 1152, 2304, 2880]
    assert {place.seen for place in places(TOKENS, 1, depth=8)} == {8, 4, 2}
    assert preset_of(TOKENS, "bench-small") == "bench-small-144"
    assert preset_of(TOKENS, "bench-tiny") == "bench-tiny"
