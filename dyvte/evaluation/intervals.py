"""How sure a difference is: intervals for paired shares."""

from __future__ import annotations

import math

Z95 = 1.959964


def paired_difference(gained: int, lost: int, count: int) -> tuple[float, float, float]:
    """Difference of two accuracies on the same samples, and its 95 % interval.

    ``gained`` samples are right now and were wrong before, ``lost`` the other way round. Wald's
    interval on the counts with one half added to each cell (Agresti and Min 2005, "Simple improved
    confidence intervals for comparing matched proportions"), which does not collapse to a point
    where no answer changed.
    """
    if count == 0:
        return 0.0, -1.0, 1.0
    b, c, n = gained + 0.5, lost + 0.5, count + 2.0
    middle = (b - c) / n
    wide = Z95 * math.sqrt(b + c - (b - c) ** 2 / n) / n
    return (gained - lost) / count, max(-1.0, middle - wide), min(1.0, middle + wide)
