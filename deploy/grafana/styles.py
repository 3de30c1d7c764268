"""One colour per thing, on every dashboard: a policy, a phase or an outcome keeps its own.

Hues are far apart and of similar lightness, readable on Grafana's dark and light themes. Red is
kept for what is wrong, grey for what is merely absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Colour = str

NEUTRAL: Colour = "#8AB8FF"
GOOD: Colour = "#56A64B"
WARN: Colour = "#F2A93B"
BAD: Colour = "#E02F44"

BLUE: Colour = "#3D8BFD"
CYAN: Colour = "#2BB3C0"
GREEN: Colour = GOOD
GREY: Colour = "#8E96A3"
ORANGE: Colour = "#F2842B"
PINK: Colour = "#E0679B"
PURPLE: Colour = "#A16AE8"
SLATE: Colour = "#545B66"
YELLOW: Colour = "#E3C23C"

POLICIES = {"gate": BLUE, "state": PURPLE, "fixed": ORANGE, "vtw": CYAN, "off": GREY}
PHASES = {"vision": PURPLE, "prefill": BLUE, "decode": CYAN, "head": YELLOW, "gates": PINK}
OUTCOMES = {"exited": GREEN, "no_exit": ORANGE, "off": GREY, "no_image": SLATE}
SHADOWS = {"agreed": GREEN, "changed": BAD, "skipped": GREY, "dropped": YELLOW}
STAGES = {"fetch": ORANGE, "decode": CYAN, "preprocess": BLUE}
CACHES = {"image": PURPLE, "prefix": BLUE}
FAULTS = {
    "url": ORANGE,
    "fetch": BLUE,
    "base64": YELLOW,
    "empty": GREY,
    "too_many_bytes": CYAN,
    "too_many_pixels": PURPLE,
    "unreadable": BAD,
}
REFUSALS = {
    "queue_full": BAD,
    "not_ready": PURPLE,
    "draining": BLUE,
    "body_too_large": YELLOW,
    "invalid_prompt": ORANGE,
    "key_limit": PINK,
}
STATUSES = {
    "2..": GREEN,
    "4..": YELLOW,
    "404": CYAN,
    "413": PURPLE,
    "429": ORANGE,
    "499": GREY,
    "5..": BAD,
}


@dataclass(frozen=True, slots=True)
class Style:
    """Series whose name matches ``pattern`` (a regular expression), drawn in their own way.

    ``dash`` draws a dashed line without a filled area, outside any stack: a limit or a baseline.
    """

    pattern: str
    colour: Colour | None = None
    dash: bool = False

    def json(self) -> dict[str, Any]:
        """A field override."""
        properties: list[dict[str, Any]] = []
        if self.colour:
            fixed = {"mode": "fixed", "fixedColor": self.colour}
            properties.append({"id": "color", "value": fixed})
        if self.dash:
            properties += [
                {"id": "custom.lineStyle", "value": {"fill": "dash", "dash": [8, 6]}},
                {"id": "custom.lineWidth", "value": 2},
                {"id": "custom.fillOpacity", "value": 0},
                {"id": "custom.stacking", "value": {"mode": "none", "group": "A"}},
            ]
        matcher = {"id": "byRegexp", "options": f"/{self.pattern}/"}
        return {"matcher": matcher, "properties": properties}


P50 = Style("p50$", dash=True)


def by_name(colours: Mapping[str, Colour]) -> tuple[Style, ...]:
    """Each name's colour, for series that are called by it or begin with it (``gate p95``)."""
    return tuple(Style(f"^{name}( |$)", colour) for name, colour in colours.items())
