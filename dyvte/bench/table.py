"""A summary as a person reads it on the terminal: milliseconds and rates."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from dyvte.bench.summary import Exits, Quantiles, Summary

ROWS = (
    ("TTFT", "ttft"),
    ("TPOT", "tpot"),
    ("ITL", "itl"),
    ("E2E", "e2e"),
)


def show(summary: Summary, console: Console) -> None:
    """Print ``summary``."""
    table = Table("ms", "mean", "p50", "p90", "p99", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for label, name in ROWS:
        table.add_row(label, *_milliseconds(getattr(summary, name)))
    console.print(table)
    console.print(_rates(summary), soft_wrap=True)
    if summary.exits is not None:
        console.print(_exits(summary.exits), soft_wrap=True)
    for reason, count in list(summary.reasons.items())[:3]:
        console.print(f"failed {count}×: {reason}", markup=False, soft_wrap=True)


def _milliseconds(quantiles: Quantiles | None) -> list[str]:
    if quantiles is None:
        return ["–"] * 4
    values = (quantiles.mean, quantiles.p50, quantiles.p90, quantiles.p99)
    return [f"{1000 * value:.1f}" for value in values]


def _rates(summary: Summary) -> str:
    done = summary.requests - summary.failed
    text = (
        f"{done} of {summary.requests} requests in {summary.seconds:.2f} s: "
        f"{summary.requests_per_second:.2f} req/s, {summary.tokens_per_second:.1f} tok/s"
    )
    if summary.output_tokens_mean is None:
        return text
    prompt = summary.prompt_tokens_mean
    tokens = "" if prompt is None else f"{prompt:.0f} prompt and "
    return f"{text} ({tokens}{summary.output_tokens_mean:.1f} output tokens a request)"


def _exits(exits: Exits) -> str:
    where = (
        "" if exits.exit_layer_mean is None else f", mean exit layer {exits.exit_layer_mean:.1f}"
    )
    return (
        f"visual tokens left early in {exits.exited} of {exits.requests} requests{where}; "
        f"mean FLOPs saved {exits.saved_ratio_mean:.1%}"
    )
