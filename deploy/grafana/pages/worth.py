"""What savings are worth (a section of *Compute savings*): money, energy, memory, and their cost.

Prices are the reader's: two text boxes on the dashboard.
"""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY, Text
from deploy.grafana.expressions import STEP, flops_saved, rate, share
from deploy.grafana.panels import Query, Section, TimeSeries
from deploy.grafana.styles import BAD, BLUE, GREEN, PHASES, POLICIES, Style, by_name

PRICE = Text(
    "usd_per_pflop",
    "$ per PFLOP",
    "What a PFLOP (10^15) costs you: price of an hour / 3600 / PFLOP/s that the device sustains. "
    "0.002 stands for 3 $ an hour and 0.4 PFLOP/s; put in your own.",
    "0.002",
)
ENERGY = Text(
    "joule_per_pflop",
    "J per PFLOP",
    "What a PFLOP (10^15) draws: watts / PFLOP/s that the device sustains. 1750 stands for 700 W "
    "and 0.4 PFLOP/s; put in your own.",
    "1750",
)

WORTH = Section(
    "What it is worth",
    (
        TimeSeries(
            "Money saved per hour",
            "FLOPs saved per second, times 3600, at the price per PFLOP above.",
            "currencyUSD",
            (
                Query(
                    f"{flops_saved(POLICY, STEP, 'policy')} * 3600 / 1e15 * $usd_per_pflop",
                    "{{policy}}",
                ),
            ),
            by_name(POLICIES),
            stack=True,
            least=None,
            width=8,
        ),
        TimeSeries(
            "Power saved",
            "FLOPs saved per second at the energy per PFLOP above.",
            "watt",
            (
                Query(
                    f"{flops_saved(POLICY, STEP, 'policy')} / 1e15 * $joule_per_pflop",
                    "{{policy}}",
                ),
            ),
            by_name(POLICIES),
            stack=True,
            least=None,
            width=8,
        ),
        TimeSeries(
            "KV bytes spared",
            "Keys and values that running requests do not hold because their images left.",
            "bytes",
            (Query(f"sum(dyvte_kv_bytes_saved{{{MODEL}}})", "spared"),),
            (Style("^spared$", GREEN),),
            width=8,
        ),
        TimeSeries(
            "Cost of a request, by policy",
            "Mean FLOPs of a request as if no cache existed; five-minute windows. Compare policies "
            "only where their requests are alike.",
            "si:FLOP",
            (
                Query(
                    f"avg by (policy) (policy:dyvte_request_flops:mean_rate5m{{{POLICY}}})",
                    "{{policy}}",
                ),
            ),
            by_name(POLICIES),
            width=8,
        ),
        TimeSeries(
            "Visual rows by layer: run and skipped",
            "Visual tokens times layers at prefill, per second: what ran and what an exit or "
            "pruning left out.",
            "si:row/s",
            (Query(rate("dyvte_visual_token_layers_total", MODEL, "state"), "{{state}}"),),
            (Style("^executed$", BLUE), Style("^skipped$", GREEN)),
            stack=True,
            width=8,
        ),
        TimeSeries(
            "What saving costs",
            "As shares of what ran: gates and other rules that decide, and FLOPs lost by requests "
            "that saved nothing. Shadow runs come on top (Quality).",
            "percentunit",
            (
                Query(
                    share(
                        rate("dyvte_flops_total", f'{POLICY}, phase="gates"'),
                        rate("dyvte_flops_total", POLICY),
                    ),
                    "deciding",
                ),
                Query(
                    share(
                        rate("dyvte_flops_overspent_total", POLICY),
                        rate("dyvte_flops_total", POLICY),
                    ),
                    "overspent",
                ),
            ),
            (Style("^deciding$", PHASES["gates"]), Style("^overspent$", BAD)),
            width=8,
        ),
    ),
)
