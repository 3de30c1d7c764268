"""*Compute savings*: what do the exits save, where, for whom, and what is it worth?"""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY, Dashboard
from deploy.grafana.expressions import (
    NOW,
    RANGE,
    buckets,
    flops_saved,
    increase,
    quantile,
    rate,
    share,
)
from deploy.grafana.pages.worth import ENERGY, PRICE, WORTH
from deploy.grafana.panels import Heatmap, Query, Section, Stat, TimeSeries
from deploy.grafana.styles import (
    BAD,
    GOOD,
    GREY,
    NEUTRAL,
    OUTCOMES,
    PHASES,
    POLICIES,
    WARN,
    Style,
    by_name,
)

SAVED_RATIO = "dyvte_request_flops_saved_ratio"

HEADLINES = Section(
    "What the exits save",
    (
        Stat(
            "Compute saved now",
            "Share of all FLOPs (vision, prefill, decode, head, gates) that requests of the last "
            "five minutes did not need, less what exits cost where they saved nothing. Negative: "
            "the policies cost more than they save.",
            "percentunit",
            Query(
                share(flops_saved(POLICY, NOW), rate("dyvte_flops_baseline_total", POLICY, "", NOW))
            ),
            steps=((0, WARN), (0.1, GOOD)),
            base=BAD,
            decimals=1,
            none="no traffic",
        ),
        Stat(
            "FLOPs saved",
            "Saved less overspent, over the time shown.",
            "si:FLOP",
            Query(flops_saved(POLICY, RANGE, of="increase")),
            decimals=2,
            instant=True,
        ),
        Stat(
            "Images that left early",
            "Share of requests with images whose visual tokens left before the last layer, over "
            "the time shown. Counted for all policies together.",
            "percentunit",
            Query(
                share(
                    increase("dyvte_exit_outcomes_total", f'{MODEL}, outcome="exited"'),
                    increase("dyvte_exit_outcomes_total", f'{MODEL}, outcome!="no_image"'),
                )
            ),
            decimals=1,
            instant=True,
            none="no images",
        ),
        Stat(
            "Money saved",
            "FLOPs saved over the time shown, at the price per PFLOP above.",
            "currencyUSD",
            Query(f"{flops_saved(POLICY, RANGE, of='increase')} / 1e15 * $usd_per_pflop"),
            instant=True,
        ),
        Stat(
            "Energy saved",
            "FLOPs saved over the time shown, at the energy per PFLOP above.",
            "joule",
            Query(f"{flops_saved(POLICY, RANGE, of='increase')} / 1e15 * $joule_per_pflop"),
            decimals=2,
            instant=True,
        ),
        Stat(
            "KV bytes spared now",
            "Keys and values that running requests do not hold because their images left. Free "
            "for other requests. Counted for all policies together.",
            "bytes",
            Query(f"sum(dyvte_kv_bytes_saved{{{MODEL}}})"),
        ),
    ),
)

OVER_TIME = Section(
    "Over time",
    (
        TimeSeries(
            "Saving by policy",
            "FLOPs saved less overspent, as a share of what the same requests would have cost with "
            "nothing leaving; five-minute windows. The dashed line is the whole fleet, whatever is "
            "selected.",
            "percentunit",
            (
                Query(
                    f"avg by (policy) (policy:dyvte_flops_saved:ratio_rate5m{{{POLICY}}})",
                    "{{policy}}",
                ),
                Query("dyvte:flops_saved:ratio_rate5m", "fleet"),
            ),
            (*by_name(POLICIES), Style("^fleet", NEUTRAL, dash=True)),
            least=None,
        ),
        TimeSeries(
            "Executed against baseline, by phase",
            "FLOPs per second that ran, by phase. The dashed line is what the same requests would "
            "have cost with nothing leaving and no cache; the space under it is what was saved.",
            "si:FLOP/s",
            (
                Query(rate("dyvte_flops_total", POLICY, "phase"), "{{phase}}"),
                Query(rate("dyvte_flops_baseline_total", POLICY), "baseline"),
            ),
            (*by_name(PHASES), Style("^baseline$", GREY, dash=True)),
            stack=True,
        ),
    ),
)

WHERE = Section(
    "Where images leave",
    (
        Heatmap(
            "Exit layer",
            "After which layer images left, requests that exited only. A band that climbs means "
            "later exits and smaller savings.",
            "short",
            Query(buckets("dyvte_request_exit_layer", POLICY)),
        ),
        TimeSeries(
            "What became of the images",
            "Requests per second: exited; a policy was asked and kept the image; policy off; no "
            "image at all. Counted for all policies together.",
            "reqps",
            (Query(rate("dyvte_exit_outcomes_total", MODEL, "outcome"), "{{outcome}}"),),
            by_name(OUTCOMES),
            stack=True,
        ),
        TimeSeries(
            "Saved share of a request, by policy",
            "Median of the share of FLOPs that single requests saved, and the tenth percentile, "
            "dashed: one request in ten saves less; five-minute windows, interpolated inside "
            "buckets. Requests that lost count as 0 here; see What saving costs.",
            "percentunit",
            tuple(
                Query(
                    f"clamp_min({quantile(q, SAVED_RATIO, POLICY, 'policy', NOW)}, 0)",
                    f"{{{{policy}}}} p{100 * q:.0f}",
                )
                for q in (0.5, 0.1)
            ),
            (*by_name(POLICIES), Style("p10$", dash=True)),
        ),
        Heatmap(
            "Requested aggressiveness",
            "What requests with gates asked for, after defaults and caps: 0 never exits, 0.5 is "
            "the paper's rule, 1 leaves at the first allowed layer.",
            "short",
            Query(buckets("dyvte_request_aggressiveness", MODEL)),
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="compute-savings",
    title="Compute savings",
    description="What visual-token exits save: share, FLOPs, memory, money and energy.",
    sections=(HEADLINES, OVER_TIME, WHERE, WORTH),
    variables=(PRICE, ENERGY),
)
