"""From a data file to curves, figures and JSON, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import dyvte
from dyvte.analysis.options import FIGURES, StudyOptions, figures_of
from dyvte.analysis.report import write_figures, write_numbers
from dyvte.analysis.score import forced
from dyvte.analysis.study import Study, study
from dyvte.analysis.summary import Point, Share, as_json, exit_counts, score_curve
from dyvte.data import Sample, Skips, read_samples
from dyvte.errors import OptionError
from dyvte.params import ExitOptions, SamplingParams
from tests import tiny

GATE = ExitOptions(aggressiveness=0.5)


def row(number: int, text: str = "what?", image: str | None = None, **more: Any) -> dict[str, Any]:
    picture = [{"type": "image_url", "image_url": {"url": image or f"{number}.png"}}]
    parts = [*picture, {"type": "text", "text": text}]
    return {"messages": [{"role": "user", "content": parts}], "id": f"q{number}", **more}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four questions about pictures, one without, one whose picture is broken."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        Image.new("RGB", (20, 20), (60 * number, 90, 200)).save(folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"not a picture")
    rows = [
        row(0, kind="colour", answer="blue"),
        {"messages": [{"role": "user", "content": "no picture here"}]},
        row(9, image="broken.png"),
        row(1, kind="colour", answer="green"),
        row(2, "how many?", kind="count", answer="2"),
        row(3, "how many?", kind="count"),
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def look(model: dyvte.Model, data: Path, **options: Any) -> Study:
    settings: dict[str, Any] = {"exits": GATE, "max_tokens": 4}
    skips = Skips()
    chosen = StudyOptions(**(settings | options))
    return study(model, read_samples(data, None, skips), chosen, _right, skips)


def _right(text: str, sample: Sample) -> bool:
    return text == sample.answer


@pytest.fixture(scope="module")
def found(tiny_model: dyvte.Model, data: Path) -> Study:
    return look(tiny_model, data)


def test_samples_without_a_picture_are_counted_and_broken_ones_told(found: Study) -> None:
    assert [sample.id for sample in found.samples] == ["q0", "q1", "q2", "q3"]
    assert found.text_only == 1
    assert [skip.line for skip in found.skips.rows] == [3]


def test_a_limit_counts_what_was_looked_at(tiny_model: dyvte.Model, data: Path) -> None:
    short = look(tiny_model, data, limit=2, figures=frozenset({"exits"}))
    assert [sample.id for sample in short.samples] == ["q0", "q1"]
    assert short.heat is None
    assert short.samples[0].forced is None


def test_exit_layers_are_those_that_the_engine_finds(
    tiny_model: dyvte.Model, data: Path, found: Study
) -> None:
    expected = []
    for sample in read_samples(data):
        if sample.pictures and sample.id != "q9":
            prompt = tiny_model.prompt(sample.load())
            expected.append(tiny.alone(tiny_model, prompt, exits=GATE).exit_layer)
    assert [sample.exit_layer for sample in found.samples] == expected
    counts = exit_counts(found)
    assert {kind: sum(each.values()) for kind, each in counts.items()} == {
        "colour": 2,
        "count": 1 + 1,
    }


def test_a_forced_exit_is_graded_where_there_is_an_answer_and_compared_everywhere(
    tiny_model: dyvte.Model,
) -> None:
    prompt = tiny.prompt(3)
    sampling = SamplingParams(max_tokens=3, temperature=0)
    answers = {
        layer: tiny.alone(
            tiny_model,
            prompt,
            sampling=sampling,
            exits=ExitOptions(policy="fixed", exit_layer=layer),
        )
        for layer in (0, 2)
    }
    whole = tiny.alone(tiny_model, prompt, sampling=sampling, exits=ExitOptions(policy="off"))
    sample = Sample("s", 1, 0, (), answer=answers[0].text, answers=(answers[0].text,))
    tried = forced(tiny_model, prompt, sample, (0, 2), 3, _right)
    assert tried.agrees == {k: v.token_ids == whole.token_ids for k, v in answers.items()}
    assert tried.right == {0: True, 2: answers[2].text == answers[0].text}
    assert tried.whole is (whole.text == answers[0].text)
    unknown = forced(tiny_model, prompt, Sample("s", 1, 0, ()), (0, 2), 3, _right)
    assert (unknown.right, unknown.whole, unknown.agrees) == (None, None, tried.agrees)


def test_scores_count_graded_and_compared_samples_apart(found: Study) -> None:
    curve = score_curve(found.samples)
    assert curve is not None
    assert curve.layers == [0, 1, 2]
    assert [share.count for share in curve.agreement] == [4, 4, 4]
    assert curve.accuracy is not None
    assert [share.count for share in curve.accuracy] == [3, 3, 3]


def test_the_json_holds_all_numbers_and_is_json(found: Study, tmp_path: Path) -> None:
    path = write_numbers(found, tmp_path, {"model": "tiny"})
    told = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    exact = json.loads(json.dumps(as_json(found)), parse_float=lambda text: round(float(text), 6))
    assert told == {"model": "tiny", **exact}
    kept = told["attention"]["without_exit"]["w_cross"]
    assert [point["count"] for point in kept] == [4] * tiny.LAYERS
    by_hand = [sample.without[1].w_cross or 0.0 for sample in found.samples]
    assert kept[1]["mean"] == pytest.approx(sum(by_hand) / 4, abs=1e-6)
    left = [point["count"] for point in told["attention"]["with_exit"]["cross_entropy"]]
    assert left == sorted(left, reverse=True), "images leave and never come back"
    assert {name: len(told[name]) for name in ("per_sample", "skipped")} == {
        "per_sample": 4,
        "skipped": 1,
    }


def test_figures_are_written_and_the_same_numbers_give_the_same_files(
    found: Study, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    first = write_figures(found, tmp_path, "tiny")
    second = write_figures(found, tmp_path / "again", "tiny")
    assert [path.name for path in first] == [f"{name}.png" for name in FIGURES]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
        with Image.open(one) as opened:
            assert min(opened.size) > 150


def test_only_the_figures_asked_for_are_drawn(
    tiny_model: dyvte.Model, data: Path, tmp_path: Path
) -> None:
    partial = look(tiny_model, data, figures=figures_of("exits, heatmap"), limit=1)
    assert [path.name for path in write_figures(partial, tmp_path, "t")] == [
        "exits.png",
        "heatmap.png",
    ]


@pytest.mark.parametrize("text", ["weights,speed", "", ","])
def test_a_figure_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"figures.*weights, score"):
        figures_of(text)


def test_points_are_means_with_standard_errors_of_what_is_there() -> None:
    assert Point.of([1.0, None, 3.0]) == Point(2.0, 1.0, 2)
    assert Point.of([None]) == Point(None, None, 0)
    assert Point.of([5.0]) == Point(5.0, None, 1)


def test_shares_carry_wilsons_interval() -> None:
    none = Share.of([False] * 10)
    assert (none.share, none.low) == (0.0, 0.0)
    assert none.high == pytest.approx(0.2775, abs=1e-3)
    half = Share.of([True, False] * 50)
    assert half.low == pytest.approx(0.4038, abs=1e-3)
    assert half.high == pytest.approx(0.5962, abs=1e-3)
