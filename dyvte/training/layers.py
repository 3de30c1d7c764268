"""Which layers: ``all``, or a list of layers and ranges, each with a stride if one is given."""

from __future__ import annotations

import re

from dyvte.errors import OptionError

_ITEM = re.compile(r"^(?:(?P<first>\d+)(?:-(?P<last>\d+)?)?)?(?:/(?P<stride>\d+))?$")


def choose_layers(text: str, depth: int) -> tuple[int, ...]:
    """``"all"``, ``"/2"``, ``"4,8,12"``, ``"8-"``, ``"8-20/4"`` → ascending layers.

    Raises OptionError for anything else, or a layer that the model does not have.
    """
    if text == "all":
        return tuple(range(depth))
    chosen: set[int] = set()
    for item in text.split(","):
        match = _ITEM.match(item.strip())
        if match is None or not item.strip() or match["stride"] == "0":
            raise OptionError("layers", f"{text!r} is not all, /2, 4,8,12 or 8-20/4")
        first = int(match["first"] or 0)
        alone = match["first"] is not None and "-" not in item
        last = first if alone else int(match["last"] or depth - 1)
        if last >= depth or first > last:
            raise OptionError("layers", f"{item.strip()!r}: the model has layers 0..{depth - 1}")
        chosen.update(range(first, last + 1, int(match["stride"] or 1)))
    return tuple(sorted(chosen))
