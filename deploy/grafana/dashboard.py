"""A dashboard: variables, sections laid out on Grafana's grid of 24 columns, links to its peers.

A line of panels has to fill the 24 columns at one height: a gap is a mistake and raises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deploy.grafana.panels import DATASOURCE, Json, Section

COLUMNS = 24
TAG = "dyvte"
SCHEMA_VERSION = 42
REFRESH = "30s"

# What every query selects by. A metric without a policy label takes MODEL.
MODEL = 'model_name=~"$model_name"'
POLICY = f'{MODEL}, policy=~"$policy"'


@dataclass(frozen=True, slots=True)
class Text:
    """A number that the reader types in, for example a price."""

    name: str
    label: str
    description: str
    value: str

    def json(self) -> Json:
        """A Grafana text box."""
        return {
            "type": "textbox",
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "query": self.value,
            "current": {"text": self.value, "value": self.value},
            "hide": 0,
            "skipUrlSync": False,
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few given values; the first is the default."""

    name: str
    label: str
    description: str
    values: tuple[str, ...]

    def json(self) -> Json:
        """A Grafana custom variable."""
        first = self.values[0]
        return {
            "type": "custom",
            "name": self.name,
            "label": self.label,
            "description": self.description,
            "query": ",".join(self.values),
            "current": {"text": first, "value": first},
            "options": [{"text": v, "value": v, "selected": v == first} for v in self.values],
            "multi": False,
            "includeAll": False,
            "hide": 0,
            "skipUrlSync": False,
        }


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One page; ``uid`` is also its file's name after ``dyvte-``."""

    uid: str
    title: str
    description: str
    sections: Sequence[Section]
    variables: Sequence[Text | Choice] = ()
    since: str = "now-6h"

    def json(self) -> Json:
        """What Grafana imports. Raises ValueError where panels leave a gap."""
        return {
            "uid": f"dyvte-{self.uid}",
            "title": f"DyVTE / {self.title}",
            "description": self.description,
            "tags": [TAG],
            "editable": True,
            "graphTooltip": 1,
            "timezone": "browser",
            "time": {"from": self.since, "to": "now"},
            "refresh": REFRESH,
            "schemaVersion": SCHEMA_VERSION,
            "links": [_links()],
            "templating": {"list": [*_common(), *(each.json() for each in self.variables)]},
            "annotations": {"list": []},
            "panels": lay_out(self.sections),
        }


def lay_out(sections: Sequence[Section]) -> list[Json]:
    """Panels and section headings with ids and places, top to bottom. Raises ValueError."""
    placed: list[Json] = []
    top = 0
    for section in sections:
        heading = {"type": "row", "title": section.title, "collapsed": False, "panels": []}
        placed.append(_at(heading, len(placed) + 1, (0, top, COLUMNS, 1)))
        top += 1
        left = 0
        line_height = 0
        for panel in section.panels:
            line_height = panel.height if left == 0 else line_height
            if left + panel.width > COLUMNS or panel.height != line_height:
                raise ValueError(f"{section.title}: {panel.title} does not fit its line")
            place = (left, top, panel.width, panel.height)
            placed.append(_at(panel.json(), len(placed) + 1, place))
            left += panel.width
            if left == COLUMNS:
                left, top = 0, top + line_height
        if left:
            raise ValueError(f"{section.title}: {COLUMNS - left} columns are left empty")
    return placed


def _at(panel: Json, number: int, place: tuple[int, int, int, int]) -> Json:
    x, y, w, h = place
    return {"id": number, "gridPos": {"x": x, "y": y, "w": w, "h": h}, **panel}


def _links() -> Json:
    """Every other dashboard with our tag, at the same time and with the same variables."""
    return {
        "type": "dashboards",
        "title": "DyVTE",
        "tags": [TAG],
        "asDropdown": False,
        "icon": "external link",
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "tooltip": "the other dashboards, at this time and with this selection",
        "url": "",
    }


def _common() -> list[Json]:
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Data source",
        "description": "The Prometheus that scrapes the servers.",
        "query": "prometheus",
        "multi": False,
        "includeAll": False,
        "refresh": 1,
        "regex": "",
        "hide": 0,
        "skipUrlSync": False,
    }
    return [
        source,
        _labels("model_name", "Model", "Base names of the models.", "dyvte_build_info", ""),
        _labels(
            "policy",
            "Policy",
            "Exit policies. Panels of metrics without a policy say so.",
            "dyvte_flops_baseline_total",
            MODEL,
        ),
    ]


def _labels(name: str, label: str, description: str, metric: str, selector: str) -> Json:
    selected = f"{metric}{{{selector}}}" if selector else metric
    asked = f"label_values({selected}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"qryType": 1, "query": asked, "refId": name},
        "current": {"text": "All", "value": "$__all"},
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "refresh": 2,
        "regex": "",
        "sort": 1,
        "hide": 0,
        "skipUrlSync": False,
    }
