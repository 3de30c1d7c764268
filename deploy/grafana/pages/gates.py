"""Whether gates do their work (a section of *Quality*): readings, exits, depth, time."""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY
from deploy.grafana.expressions import rate, share
from deploy.grafana.panels import Query, Section, TimeSeries
from deploy.grafana.styles import BAD, GREEN, PINK, POLICIES, Style, by_name

GATES = Section(
    "The gates",
    (
        TimeSeries(
            "NaN from gates",
            "Share of gate readings that were not a number. Not the traffic but the gates, the "
            "weights or the device are at fault.",
            "percentunit",
            (
                Query(
                    share(
                        rate("dyvte_gate_nan_total", MODEL),
                        rate("dyvte_gate_readings_total", MODEL),
                    ),
                    "NaN",
                ),
            ),
            (Style("^NaN$", BAD),),
            width=6,
        ),
        TimeSeries(
            "Requests that exited",
            "Share of the requests with an image and a policy whose image left. A drop without a "
            "change of settings: other traffic, or a broken gate.",
            "percentunit",
            (
                Query(
                    share(
                        rate("dyvte_exit_outcomes_total", f'{MODEL}, outcome="exited"'),
                        rate("dyvte_exit_outcomes_total", f'{MODEL}, outcome=~"exited|no_exit"'),
                    ),
                    "exited",
                ),
            ),
            (Style("^exited$", GREEN),),
            most=1,
            width=6,
        ),
        TimeSeries(
            "Exit layer, by policy",
            "Mean layer after which images left. Earlier exits save more and risk more.",
            "short",
            (
                Query(
                    share(
                        rate("dyvte_request_exit_layer_sum", POLICY, "policy"),
                        rate("dyvte_request_exit_layer_count", POLICY, "policy"),
                    ),
                    "{{policy}}",
                ),
            ),
            by_name(POLICIES),
            width=6,
        ),
        TimeSeries(
            "Time with gates",
            "Share of the engine's step time that asking gates takes.",
            "percentunit",
            (
                Query(
                    share(
                        rate("dyvte_gate_seconds_total", MODEL),
                        rate("dyvte_step_seconds_sum", MODEL),
                    ),
                    "gates",
                ),
            ),
            (Style("^gates$", PINK),),
            width=6,
        ),
    ),
)
