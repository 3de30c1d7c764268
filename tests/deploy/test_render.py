"""Pictures of dashboards show what Prometheus says, in the panels' units."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.grafana.build import DASHBOARDS, FOLDER
from deploy.grafana.dashboard import Dashboard
from deploy.grafana.queries import Prometheus, QueryError, Series, defaults_of, panels_of
from deploy.grafana.render import __main__ as renderer
from deploy.grafana.render.canvas import Canvas
from deploy.grafana.render.drawing import Span, draw
from deploy.grafana.render.units import text_of

SPAN = Span(1_000.0, 4_600.0, 60.0)
VALUES = {"__rate_interval": "1m", "__range": "1h"}


@dataclass(frozen=True, slots=True)
class Told(Prometheus):
    """A Prometheus that gives every query the same series."""

    values: tuple[float, ...] = ()

    def instant(self, expr: str, at: float) -> list[Series]:
        return [Series({"policy": "gate", "le": "1.0"}, (at,), self.values[-1:])]

    def range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        times = tuple(start + step * number for number in range(len(self.values)))
        return [Series({"policy": "gate", "le": "1.0"}, times, self.values)]


def words(canvas: Canvas) -> list[str]:
    """All text on the sheet, marks of axes left out."""
    return [text.get_text().replace("\\$", "$") for text in canvas.figure.texts]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda each: each.uid)
def test_every_panel_is_drawn_under_its_title(dashboard: Dashboard) -> None:
    page = dashboard.json()
    told = Told("http://nowhere", (0.2, 0.3, 0.421))
    canvas = renderer.render(page, told, defaults_of(page) | VALUES, SPAN)
    assert {panel["title"] for panel in page["panels"]} <= set(words(canvas))
    assert {"42.1 %", "42.10 %"} & set(words(canvas)), "a share in per cent"


@pytest.mark.parametrize("values", [(), (math.nan, math.nan)])
def test_a_number_without_a_value_says_what_that_means(values: tuple[float, ...]) -> None:
    (panel, *_) = panels_of(DASHBOARDS[0].json())
    canvas = Canvas(5)
    series = [("", Series({}, (1.0, 2.0)[: len(values)], values))] if values else []
    draw(canvas, panel, series, SPAN)
    assert "no traffic" in words(canvas)


def test_colours_and_dashes_are_the_panels_own() -> None:
    panel = next(p for p in panels_of(DASHBOARDS[0].json()) if p["title"] == "Saving by policy")
    canvas = Canvas(40)
    names = ("gate", "off", "fleet")
    draw(canvas, panel, [(n, Series({}, (1_000.0, 1_060.0), (0.1, 0.2))) for n in names], SPAN)
    lines = {line.get_color(): line.get_linestyle() for line in canvas.figure.axes[0].lines}
    assert lines == {"#3D8BFD": "-", "#8E96A3": "-", "#8AB8FF": "--"}


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "text"),
    [
        (0.4213, "percentunit", 1, "42.1 %"),
        (-0.05, "percentunit", None, "−5 %"),
        (3.2e12, "si:FLOP/s", None, "3.2 TFLOP/s"),
        (0.00421, "s", None, "4.21 ms"),
        (90.0, "s", None, "90 s"),
        (3 * 2**20, "bytes", None, "3 MiB"),
        (0.0000024, "currencyUSD", None, "$0.00000240"),
        (1234.5, "currencyUSD", None, "$1,234.50"),
        (3.0, "suffix:runs/min", None, "3 runs/min"),
        (1234.5, "short", None, "1234"),
        (2.5e6, "short", None, "2.5 M"),
        (0.5, "reqps", None, "0.5 req/s"),
        (1750.0, "joule", 2, "1.75 kJ"),
        (0.0, "watt", None, "0 W"),
        (math.nan, "s", None, "no data"),
    ],
)
def test_values_read_as_in_grafana(
    value: float, unit: str, decimals: int | None, text: str
) -> None:
    assert text_of(value, unit, decimals) == text


def test_a_picture_is_written_for_each_dashboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renderer, "Prometheus", lambda url: Told(url, (1.0, 2.0)))
    small = tmp_path / "small.json"
    page = DASHBOARDS[0].json()
    page["panels"] = page["panels"][:2]
    small.write_text(json.dumps(page))
    assert renderer.main([str(small), "--out", str(tmp_path), "--last", "30m"]) == 0
    assert (tmp_path / "small.png").read_bytes().startswith(b"\x89PNG")


def test_a_refused_query_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise QueryError("parse error in up{")

    monkeypatch.setattr(renderer, "ask", refuse)
    assert renderer.main([str(FOLDER / "quality.json"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "quality.json: parse error in up{\n"
