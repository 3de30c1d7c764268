"""Dashboards as pictures, without a Grafana: every panel's own queries, put to a real Prometheus.

    python -m deploy.grafana.render --prometheus http://127.0.0.1:9090 --out pictures

Panels stand where the dashboard's grid says, with its titles, units, colours and variables. What
Grafana does beyond that (tooltips, links, exact scales) is not imitated. Draws stat, time series
and heat-map panels, which is all that the dashboards here use.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.grafana.build import FOLDER
from deploy.grafana.queries import (
    Json,
    Prometheus,
    QueryError,
    Series,
    defaults_of,
    interpolate,
    legend_of,
    panels_of,
)
from deploy.grafana.render.canvas import DPI, FAINT, INK, WIDTH, Canvas
from deploy.grafana.render.drawing import Span, draw

POINTS = 180
AGO = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds(text: str) -> float:
    """``"30m"`` as 1800. Raises ValueError."""
    return float(text[:-1]) * AGO[text[-1]] if text[-1:] in AGO else float(text)


def windows(span: Span, scrape: float) -> dict[str, str]:
    """The windows that Grafana fills in: rates over at least four scrapes."""
    rate = max(span.step + scrape, 4 * scrape)
    return {"__rate_interval": f"{rate:.0f}s", "__range": f"{span.end - span.start:.0f}s"}


def ask(
    prometheus: Prometheus, panel: Json, values: Mapping[str, str], span: Span
) -> list[tuple[str, Series]]:
    """Every series of a panel with its name. Raises QueryError."""
    named = []
    for target in panel["targets"]:
        expr = interpolate(target["expr"], values)
        if target["instant"]:
            found = prometheus.instant(expr, span.end)
        else:
            found = prometheus.range(expr, span.start, span.end, span.step)
        found.sort(key=lambda series: sorted(series.labels.items()))
        named += [(legend_of(target, series.labels), series) for series in found]
    return named


def render(
    dashboard: Json, prometheus: Prometheus, values: Mapping[str, str], span: Span
) -> Canvas:
    """One dashboard, drawn. Raises QueryError."""
    rows = max(p["gridPos"]["y"] + p["gridPos"]["h"] for p in dashboard["panels"])
    canvas = Canvas(rows)
    canvas.text(14, 36, dashboard["title"], 16, INK, bold=True)
    begin, end = (dt.datetime.fromtimestamp(t, dt.UTC) for t in (span.start, span.end))
    canvas.text(WIDTH - 14, 36, f"{begin:%Y-%m-%d %H:%M} to {end:%H:%M} UTC", 10, FAINT, right=True)
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            top = canvas.top_of(panel["gridPos"]["y"])
            canvas.text(14, top + 24, panel["title"], 11, INK)
    for panel in panels_of(dashboard):
        draw(canvas, panel, ask(prometheus, panel, values, span), span)
    return canvas


def main(argv: Sequence[str] | None = None) -> int:
    """Draw dashboards; 2 with one line where that cannot be."""
    parser = argparse.ArgumentParser("python -m deploy.grafana.render", description=__doc__)
    add = parser.add_argument
    add("dashboards", nargs="*", type=Path, default=sorted(FOLDER.glob("*.json")), metavar="JSON")
    add("--prometheus", default="http://127.0.0.1:9090", metavar="URL")
    add("--out", type=Path, default=Path(), metavar="DIR")
    add("--last", type=seconds, default=6 * 3600.0, metavar="6h", help="time to show")
    add("--end", type=float, default=time.time(), metavar="UNIX", help="when it ends")
    add("--scrape", type=seconds, default=15.0, metavar="15s", help="scrape interval")
    add("--var", action="append", default=[], metavar="NAME=VALUE", help="instead of the default")
    args = parser.parse_args(argv)
    step = max(1.0, args.scrape, round(args.last / POINTS))
    end = args.end // step * step
    span = Span(end - args.last // step * step, end, step)
    args.out.mkdir(parents=True, exist_ok=True)
    for path in args.dashboards:
        dashboard = json.loads(path.read_text(encoding="utf-8"))
        values = defaults_of(dashboard) | windows(span, args.scrape)
        values |= dict(pair.split("=", 1) for pair in args.var)
        try:
            canvas = render(dashboard, Prometheus(args.prometheus), values, span)
        except QueryError as error:
            sys.stderr.write(f"{path.name}: {error}\n")
            return 2
        canvas.figure.savefig(args.out / f"{path.stem}.png", dpi=DPI)
    return 0


if __name__ == "__main__":
    sys.exit(main())
