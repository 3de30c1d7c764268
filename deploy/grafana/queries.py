"""A panel's queries put to a real Prometheus: variables filled in as Grafana does, series read.

Knows dashboards as JSON only, so that it also reads those that were not made here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

Json = dict[str, Any]
VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")
TIMEOUT_S = 30.0


class QueryError(ValueError):
    """A query that cannot be put: an unknown variable, or refused by Prometheus."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line: ``values[i]`` at ``times[i]`` (Unix seconds). Steps without a value are absent."""

    labels: Mapping[str, str]
    times: tuple[float, ...]
    values: tuple[float, ...]

    @property
    def last(self) -> float:
        """The newest value that is a number; NaN if there is none."""
        return next((v for v in reversed(self.values) if not math.isnan(v)), math.nan)


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Prometheus' HTTP API, as far as panels need it."""

    url: str

    def instant(self, expr: str, at: float) -> list[Series]:
        """The value at one moment. Raises QueryError."""
        return self._ask("query", expr, {"time": f"{at}"})

    def range(self, expr: str, start: float, end: float, step: float) -> list[Series]:
        """Values from ``start`` to ``end``. Raises QueryError."""
        return self._ask(
            "query_range", expr, {"start": f"{start}", "end": f"{end}", "step": f"{step}"}
        )

    def _ask(self, route: str, expr: str, options: dict[str, str]) -> list[Series]:
        reply = httpx.post(
            f"{self.url}/api/v1/{route}", data={"query": expr, **options}, timeout=TIMEOUT_S
        )
        said = reply.json()
        if said.get("status") != "success":
            raise QueryError(f"{said.get('error', reply.status_code)} in {expr}")
        return [
            _series(each.get("metric", {}), each.get("values") or [each["value"]])
            for each in said["data"]["result"]
        ]


def panels_of(dashboard: Json) -> Iterator[Json]:
    """Panels that ask something: rows and texts are left out."""
    return (panel for panel in dashboard["panels"] if panel.get("targets"))


def defaults_of(dashboard: Json) -> dict[str, str]:
    """What each variable stands for when the dashboard is opened."""
    found = {}
    for variable in dashboard["templating"]["list"]:
        value = variable.get("current", {}).get("value", "")
        found[variable["name"]] = variable.get("allValue", ".*") if value == "$__all" else value
    return found


def interpolate(expr: str, values: Mapping[str, str]) -> str:
    """``expr`` with every ``$name`` and ``${name}`` replaced. Raises QueryError for an unknown."""

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in values:
            raise QueryError(f"no value for ${name} in {expr}")
        return values[name]

    return VARIABLE.sub(value, expr)


def legend_of(target: Json, labels: Mapping[str, str]) -> str:
    """A series' name as Grafana shows it."""
    form = target.get("legendFormat", "__auto")
    if form == "__auto":
        return ", ".join(value for name, value in labels.items() if name != "__name__")
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: labels.get(match[1], ""), form)


def _series(labels: Mapping[str, str], values: list[list[Any]]) -> Series:
    return Series(
        labels, tuple(float(time) for time, _ in values), tuple(float(v) for _, v in values)
    )
