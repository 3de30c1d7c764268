"""Panels as values: what a panel asks, in which unit, and the JSON that Grafana reads.

Plain dataclasses rather than Grafana's foundation SDK: these dashboards need three kinds of panel
and some twenty fields, the SDK's builders add a dependency whose version has to be pinned against
its own numbering and check nothing that they build, and Grafana's published types
(`@grafana/schema`) hold the finished JSON to account better than any builder
(`make observability-test`). Positions belong to dashboard.py, colours to styles.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploy.grafana.styles import NEUTRAL, Colour, Style

Json = dict[str, Any]

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One PromQL expression; ``legend`` may hold ``{{label}}``."""

    expr: str
    legend: str = ""


class Panel(Protocol):
    """What dashboard.py lays out; sizes are columns of 24 and rows of 30 pixels."""

    @property
    def title(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def json(self) -> Json:
        """Everything but ``id`` and ``gridPos``."""


@dataclass(frozen=True, slots=True)
class Stat:
    """One number now, with the way it came in small behind it.

    ``steps`` are (from which value, colour), ascending; the number is neutral below the first.
    An instant panel shows what its query says at the end of the range alone.
    """

    title: str
    description: str
    unit: str
    query: Query
    steps: tuple[tuple[float, Colour], ...] = ()
    base: Colour = NEUTRAL
    decimals: int | None = None
    instant: bool = False
    none: str = "no data"
    width: int = 4
    height: int = 4

    def json(self) -> Json:
        """A Grafana stat panel."""
        first: list[Json] = [{"value": None, "color": self.base}]
        steps = first + [{"value": value, "color": colour} for value, colour in self.steps]
        defaults: Json = {
            "unit": self.unit,
            "noValue": self.none,
            "color": {"mode": "thresholds"},
            "thresholds": {"mode": "absolute", "steps": steps},
        }
        if self.decimals is not None:
            defaults["decimals"] = self.decimals
        options = {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "orientation": "auto",
            "textMode": "value",
            "wideLayout": True,
            "colorMode": "value",
            "graphMode": "none" if self.instant else "area",
            "justifyMode": "auto",
            "showPercentChange": False,
            "percentChangeColorMode": "standard",
        }
        return _panel("stat", self, (self.query,), defaults, (), options, instant=self.instant)


@dataclass(frozen=True, slots=True)
class TimeSeries:
    """Lines over time; ``stack`` piles them up, ``least`` and ``most`` fix the axis."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    styles: tuple[Style, ...] = ()
    stack: bool = False
    least: float | None = 0
    most: float | None = None
    width: int = 12
    height: int = 8

    def json(self) -> Json:
        """A Grafana time series panel."""
        custom = {
            "drawStyle": "line",
            "lineInterpolation": "linear",
            "lineWidth": 0 if self.stack else 2,
            "fillOpacity": 70 if self.stack else 8,
            "gradientMode": "none",
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if self.stack else "none", "group": "A"},
            "axisPlacement": "auto",
            "scaleDistribution": {"type": "linear"},
        }
        defaults: Json = {"unit": self.unit, "color": {"mode": "palette-classic"}, "custom": custom}
        defaults |= {
            name: bound
            for name, bound in (("min", self.least), ("max", self.most))
            if bound is not None
        }
        options = {
            "legend": {
                "displayMode": "list",
                "placement": "bottom",
                "showLegend": True,
                "calcs": [],
            },
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
        return _panel("timeseries", self, self.queries, defaults, self.styles, options)


@dataclass(frozen=True, slots=True)
class Heatmap:
    """A Prometheus histogram over time: the query gives increases ``by (le)``.

    ``unit`` is that of the buckets' bounds; darker cells hold fewer observations.
    """

    title: str
    description: str
    unit: str
    query: Query
    width: int = 12
    height: int = 8

    def json(self) -> Json:
        """A Grafana heat-map panel over ready-made buckets."""
        scale = {"type": "linear"}
        hidden = {"tooltip": False, "viz": False, "legend": False}
        custom = {"scaleDistribution": scale, "hideFrom": hidden}
        options = {
            "calculate": False,
            "cellGap": 1,
            "color": {
                "mode": "scheme",
                "scheme": "Viridis",
                "exponent": 0.5,
                "steps": 64,
                "reverse": False,
                "fill": "dark-blue",
            },
            "exemplars": {"color": "rgba(255,0,255,0.7)"},
            "filterValues": {"le": 1e-9},
            "legend": {"show": True},
            "rowsFrame": {"layout": "le"},
            "showValue": "never",
            "tooltip": {"mode": "single", "yHistogram": True},
            "yAxis": {"axisPlacement": "left", "unit": self.unit, "reverse": False},
        }
        defaults: Json = {"unit": "short", "custom": custom}
        queries = (Query(self.query.expr, "{{le}}"),)
        return _panel("heatmap", self, queries, defaults, (), options, format="heatmap")


@dataclass(frozen=True, slots=True)
class Section:
    """A titled stretch of a dashboard: panels from left to right, top to bottom."""

    title: str
    panels: Sequence[Panel] = field(default_factory=tuple)


class _Titled(Protocol):
    @property
    def title(self) -> str: ...

    @property
    def description(self) -> str: ...


def _panel(
    kind: str,
    panel: _Titled,
    queries: Sequence[Query],
    defaults: Json,
    styles: Sequence[Style],
    options: Json,
    *,
    instant: bool = False,
    format: str = "time_series",
) -> Json:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend or "__auto",
            "format": format,
            "instant": instant,
            "range": not instant,
        }
        for number, query in enumerate(queries)
    ]
    return {
        "type": kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": [style.json() for style in styles]},
        "options": options,
    }
