"""PromQL that more than one panel writes: sums of rates, quantiles, shares, bounds.

Windows: a line over time rates over ``$__rate_interval``, a number "now" over five minutes, a
total over ``$__range``. No traffic is no data and never NaN: denominators end in ``> 0``.
"""

from __future__ import annotations

STEP = "$__rate_interval"
NOW = "5m"
RANGE = "$__range"
Z95 = 1.645  # one-sided


def rate(metric: str, selector: str, by: str = "", window: str = STEP) -> str:
    """Sum of a counter's rates."""
    return f"sum{_by(by)} (rate({metric}{{{selector}}}[{window}]))"


def increase(metric: str, selector: str, by: str = "", window: str = RANGE) -> str:
    """Sum of a counter's increases."""
    return f"sum{_by(by)} (increase({metric}{{{selector}}}[{window}]))"


def quantile(q: float, metric: str, selector: str, by: str = "", window: str = STEP) -> str:
    """A quantile of a histogram, interpolated inside its bucket; no value where it is empty."""
    labels = f"le, {by}" if by else "le"
    inner = rate(f"{metric}_bucket", selector, labels, window)
    return f"histogram_quantile({q:g}, {inner}) > -Inf"


def buckets(metric: str, selector: str) -> str:
    """Observations per bucket and step, for a heat-map."""
    return increase(f"{metric}_bucket", selector, "le", STEP)


def share(part: str, whole: str) -> str:
    """A ratio that has no value where ``whole`` is 0."""
    return f"{part} / ({whole} > 0)"


def flops_saved(selector: str, window: str, by: str = "", of: str = "rate") -> str:
    """FLOPs saved less FLOPs overspent: what the policies saved in all, their own cost included."""
    count = rate if of == "rate" else increase
    saved = count("dyvte_flops_saved_total", selector, by, window)
    return f"({saved} - {count('dyvte_flops_overspent_total', selector, by, window)})"


def at_least(count: str, whole: str) -> str:
    """Byar's lower bound (one-sided 95 %) of the share ``count / whole``; 0 where none occurred.

    It approximates the exact bound of a Poisson count, which scatters more than a binomial one,
    and so stays outside Clopper and Pearson's, which PromQL cannot compute. The rules in
    deploy/prometheus use the same.
    """
    root = f"(1 - 1 / (9 * {count}) - {Z95} / (3 * sqrt({count})))"
    return share(f"{count} * clamp_min({root}, 0) ^ 3", whole)


def at_most(count: str, whole: str) -> str:
    """Byar's upper bound (one-sided 95 %) of a share, 1 at most; about 3 / ``whole`` for none."""
    more = f"({count} + 1)"
    root = f"(1 - 1 / (9 * {more}) + {Z95} / (3 * sqrt({more})))"
    return f"clamp_max({share(f'{more} * {root} ^ 3', whole)}, 1)"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
