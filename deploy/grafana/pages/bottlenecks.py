"""What stands in the way (sections of *Service*): the line, the batch, memory, and images."""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY
from deploy.grafana.expressions import quantile, rate
from deploy.grafana.panels import Query, Section, TimeSeries
from deploy.grafana.styles import (
    BLUE,
    CACHES,
    CYAN,
    FAULTS,
    GREEN,
    ORANGE,
    P50,
    PHASES,
    PURPLE,
    STAGES,
    Style,
    by_name,
)


def spread(metric: str, selector: str, by: str = "") -> tuple[Query, ...]:
    """Quantiles of a histogram that no rule keeps."""
    name = f"{{{{{by}}}}} " if by else ""
    return (
        Query(quantile(0.95, metric, selector, by), f"{name}p95"),
        Query(quantile(0.5, metric, selector, by), f"{name}p50"),
    )


BATCH = Section(
    "Line, batch and memory",
    (
        TimeSeries(
            "Running and waiting",
            "Requests in the batch, and in the line before it. A line that stays wants another "
            "replica.",
            "short",
            (
                Query(f"sum(dyvte_requests_running{{{MODEL}}})", "running"),
                Query(f"sum(dyvte_requests_waiting{{{MODEL}}})", "waiting"),
            ),
            (Style("^running$", BLUE), Style("^waiting$", ORANGE)),
            width=8,
        ),
        TimeSeries(
            "Time in the line",
            "Seconds from submission until a request joined the batch.",
            "s",
            spread("dyvte_request_queue_seconds", MODEL),
            (Style("^p", ORANGE), P50),
            width=8,
        ),
        TimeSeries(
            "KV cache in use",
            "Share of KV pages that are taken, per server.",
            "percentunit",
            (Query(f"dyvte_kv_cache_usage_ratio{{{MODEL}}}", "{{instance}}"),),
            most=1,
            width=8,
        ),
        TimeSeries(
            "Rows of a step",
            "Mean rows of an engine step: prompt tokens in prefill, sequences in decode.",
            "short",
            (
                Query(
                    f"{rate('dyvte_step_rows_total', MODEL, 'phase')} / on () group_left ()"
                    f" ({rate('dyvte_step_seconds_count', MODEL)} > 0)",
                    "{{phase}}",
                ),
            ),
            by_name(PHASES),
            stack=True,
            width=8,
        ),
        TimeSeries(
            "Engine step",
            "Seconds of a step: the prefills that fit it, and one token for each running sequence.",
            "s",
            spread("dyvte_step_seconds", MODEL),
            (Style("^p", GREEN), P50),
            width=8,
        ),
        TimeSeries(
            "Prefill and decode",
            "Seconds of a request in prefill and in decode, p95 of all selected policies.",
            "s",
            (
                Query(quantile(0.95, "dyvte_request_prefill_seconds", POLICY), "prefill"),
                Query(quantile(0.95, "dyvte_request_decode_seconds", POLICY), "decode"),
            ),
            (Style("^prefill$", BLUE), Style("^decode$", CYAN)),
            width=8,
        ),
    ),
)

MEDIA = Section(
    "Images and caches",
    (
        TimeSeries(
            "Seconds per image, by stage",
            "Fetching, decoding and preprocessing, in worker threads; p95.",
            "s",
            (Query(quantile(0.95, "dyvte_media_seconds", MODEL, "stage"), "{{stage}}"),),
            by_name(STAGES),
            width=6,
        ),
        TimeSeries(
            "Vision tower",
            "Seconds per engine step with images in the vision tower and projector.",
            "s",
            spread("dyvte_vision_encoder_seconds", MODEL),
            (Style("^p", PURPLE), P50),
            width=6,
        ),
        TimeSeries(
            "Images refused, by reason",
            "Images per minute that could not be used. A jump is often one client with a new bug.",
            "suffix:images/min",
            (Query(f"60 * {rate('dyvte_media_errors_total', MODEL, 'reason')}", "{{reason}}"),),
            by_name(FAULTS),
            width=6,
        ),
        TimeSeries(
            "Cache look-ups and hits",
            "Look-ups per second in each cache, dashed, and those that hit.",
            "ops",
            (
                Query(rate("dyvte_cache_hits_total", MODEL, "cache"), "{{cache}} hits"),
                Query(rate("dyvte_cache_queries_total", MODEL, "cache"), "{{cache}} look-ups"),
            ),
            (*by_name(CACHES), Style("look-ups$", dash=True)),
            width=6,
        ),
    ),
)
