"""Values in Grafana's units, as a reader sees them: ``0.42`` percentunit is ``42 %``.

The units that our dashboards use; any other is written behind the plain number.
"""

from __future__ import annotations

import math

PREFIXES = {
    12: "T",
    15: "P",
    18: "E",
    9: "G",
    6: "M",
    3: "k",
    0: "",
    -3: "m",
    -6: "µ",
    -9: "n",
}
BINARY = ("B", "KiB", "MiB", "GiB", "TiB")
WORDS = {"joule": "J", "watt": "W", "s": "s"}
PER_SECOND = {"reqps": "req/s", "ops": "ops/s"}
DIGITS = 3


def text_of(value: float, unit: str, decimals: int | None = None) -> str:
    """``value`` with its unit; three significant digits where ``decimals`` is None."""
    if math.isnan(value):
        return "no data"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return _text(value, unit, decimals).replace("-", "−")


def _text(value: float, unit: str, decimals: int | None) -> str:
    if unit == "percentunit":
        return f"{_number(100 * value, decimals)} %"
    if unit == "bytes":
        power = min(int(math.log(max(abs(value), 1), 1024)), len(BINARY) - 1)
        return f"{_number(value / 1024**power, decimals)} {BINARY[power]}"
    if unit == "currencyUSD":
        return f"${_plain(value)}".replace("$-", "-$")
    if unit.startswith("suffix:"):
        return f"{_number(value, decimals)} {unit.removeprefix('suffix:')}"
    if unit == "s" and abs(value) >= 120:
        return f"{_number(value / 60, decimals)} min"
    if unit in ("short", "none", ""):
        return _number(value, decimals) if abs(value) < 1e4 else _scaled(value, "", decimals)
    if unit in PER_SECOND:
        return f"{_number(value, decimals)} {PER_SECOND[unit]}"
    return _scaled(value, unit.removeprefix("si:") if unit[:3] == "si:" else _word(unit), decimals)


def _word(unit: str) -> str:
    return WORDS.get(unit, unit)


def _scaled(value: float, unit: str, decimals: int | None) -> str:
    power = 0 if value == 0 else 3 * math.floor(math.log10(abs(value)) / 3)
    power = max(min(power, max(PREFIXES)), min(PREFIXES))
    return f"{_number(value / 10.0**power, decimals)} {PREFIXES[power]}{unit}".rstrip()


def _plain(value: float) -> str:
    """Three digits without an exponent, however small."""
    places = 2 if value == 0 else max(2, DIGITS - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}"


def _number(value: float, decimals: int | None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{DIGITS - 1}e}"
    places = max(0, DIGITS - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
