"""*Service*: does the server answer, how fast, and what stands in the way?"""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY, Dashboard
from deploy.grafana.expressions import NOW, quantile, rate, share
from deploy.grafana.pages.bottlenecks import BATCH, MEDIA, spread
from deploy.grafana.panels import Query, Section, Stat, TimeSeries
from deploy.grafana.styles import (
    BAD,
    BLUE,
    GOOD,
    GREEN,
    P50,
    POLICIES,
    PURPLE,
    REFUSALS,
    STATUSES,
    WARN,
    Style,
    by_name,
)

CHAT = f'{MODEL}, endpoint="/v1/chat/completions"'


def by_rule(metric: str) -> tuple[Query, ...]:
    """Quantiles that recording rules keep, the worst server's."""
    return tuple(
        Query(f"max by (policy) (policy:{metric}:{q}_rate5m{{{POLICY}}})", f"{{{{policy}}}} {q}")
        for q in ("p95", "p50")
    )


HEADLINES = Section(
    "Now",
    (
        Stat(
            "Servers that report",
            "Replicas with a loaded model that Prometheus reaches.",
            "short",
            Query(f"count(dyvte_build_info{{{MODEL}}})"),
            steps=((1, GOOD),),
            base=BAD,
            none="0",
        ),
        Stat(
            "Requests",
            "Chat completions that ended, whatever their status; five minutes.",
            "reqps",
            Query(rate("dyvte_requests_total", CHAT, "", NOW)),
            decimals=2,
        ),
        Stat(
            "Our errors",
            "Share of chat completions that ended with 5xx; five minutes. Anything above 0 is a "
            "fault of the service.",
            "percentunit",
            Query(
                share(
                    rate("dyvte_requests_total", f'{CHAT}, status_code=~"5.."', "", NOW),
                    rate("dyvte_requests_total", CHAT, "", NOW),
                )
            ),
            steps=((0.0001, WARN), (0.01, BAD)),
            base=GOOD,
            decimals=2,
            none="no traffic",
        ),
        Stat(
            "First token, p95",
            "Arrival to first token, all selected policies; five minutes.",
            "s",
            Query(quantile(0.95, "dyvte_time_to_first_token_seconds", POLICY, "", NOW)),
            decimals=2,
            none="no traffic",
        ),
        Stat(
            "Waiting",
            "Requests that are in the line and not yet in the batch.",
            "short",
            Query(f"sum(dyvte_requests_waiting{{{MODEL}}})"),
            steps=((1, WARN), (32, BAD)),
            base=GOOD,
        ),
        Stat(
            "KV cache in use",
            "The fullest server's share of KV pages that are taken. At 100 % the youngest request "
            "gives its pages back and is computed again later.",
            "percentunit",
            Query(f"max(dyvte_kv_cache_usage_ratio{{{MODEL}}})"),
            steps=((0.8, WARN), (0.95, BAD)),
            base=GOOD,
            decimals=0,
        ),
    ),
)

TRAFFIC = Section(
    "Traffic",
    (
        TimeSeries(
            "Requests by status",
            "Chat completions per second. 4xx are the client's, 429 a full line, 499 a client "
            "that left, 5xx ours.",
            "reqps",
            (Query(f"{rate('dyvte_requests_total', CHAT, 'status_code')} > 0", "{{status_code}}"),),
            by_name(STATUSES),
            stack=True,
            width=8,
        ),
        TimeSeries(
            "Not admitted, by reason",
            "Requests per second that the server refused before they reached the model.",
            "reqps",
            (Query(rate("dyvte_admission_rejections_total", MODEL, "reason"), "{{reason}}"),),
            by_name(REFUSALS),
            width=8,
        ),
        TimeSeries(
            "Tokens",
            "Tokens per second of requests that ended: prompts without their visual tokens, "
            "visual tokens, and generated ones.",
            "si:tok/s",
            (
                Query(
                    f"{rate('dyvte_prompt_tokens_total', MODEL)}"
                    f" - {rate('dyvte_visual_tokens_total', MODEL)}",
                    "text prompt",
                ),
                Query(rate("dyvte_visual_tokens_total", MODEL), "visual"),
                Query(rate("dyvte_generation_tokens_total", MODEL), "generated"),
            ),
            (
                Style("^text prompt$", BLUE),
                Style("^visual$", PURPLE),
                Style("^generated$", GREEN),
            ),
            width=8,
        ),
    ),
)

LATENCY = Section(
    "Latency by policy (p95, and p50 dashed)",
    (
        TimeSeries(
            "Time to first token",
            "Arrival to first token: line, images, vision tower and prefill; five-minute windows.",
            "s",
            by_rule("dyvte_time_to_first_token_seconds"),
            (*by_name(POLICIES), P50),
            width=8,
        ),
        TimeSeries(
            "Between tokens",
            "Gap between two tokens of an answer.",
            "s",
            spread("dyvte_inter_token_latency_seconds", POLICY, "policy"),
            (*by_name(POLICIES), P50),
            width=8,
        ),
        TimeSeries(
            "Whole request",
            "Arrival to last token; five-minute windows. Grows with the length of answers.",
            "s",
            by_rule("dyvte_request_duration_seconds"),
            (*by_name(POLICIES), P50),
            width=8,
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="service",
    title="Service",
    description="Rates, errors, latency, line, batch, memory and images of the server.",
    sections=(HEADLINES, TRAFFIC, LATENCY, BATCH, MEDIA),
)
