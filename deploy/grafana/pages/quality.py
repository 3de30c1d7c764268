"""*Quality*: do exits still change as few answers as promised, and are the gates sane?

What is compared with what, and how to read it: docs/shadow.md.
"""

from __future__ import annotations

from deploy.grafana.dashboard import MODEL, POLICY, Choice, Dashboard
from deploy.grafana.expressions import at_least, at_most, increase, rate, share
from deploy.grafana.pages.gates import GATES
from deploy.grafana.panels import Query, Section, Stat, TimeSeries
from deploy.grafana.styles import (
    BAD,
    BLUE,
    GOOD,
    GREEN,
    GREY,
    NEUTRAL,
    POLICIES,
    SHADOWS,
    YELLOW,
    Style,
    by_name,
)

WINDOW = Choice(
    "window",
    "Checks of the last",
    "Over how long shadow runs are added up before a share is taken. Few runs say little.",
    ("1d", "1h", "6h", "7d"),
)

RUNS = "dyvte_shadow_runs_total"
CHANGED = increase(RUNS, f'{POLICY}, outcome="changed"', window="$window")
CHECKED = increase(RUNS, f'{POLICY}, outcome=~"agreed|changed"', window="$window")
# Shadows are drawn from answers that lost visual tokens; a promise is about all with an image.
SHORTENED = share(
    increase("dyvte_exit_outcomes_total", f'{MODEL}, outcome="exited"', window="$window"),
    increase("dyvte_exit_outcomes_total", f'{MODEL}, outcome=~"exited|no_exit"', window="$window"),
)
PROMISE = f"max(dyvte_promised_risk_ratio{{{POLICY}}} >= 0)"
OF_ALL = f"({share(CHANGED, CHECKED)}) * ({SHORTENED})"
AT_LEAST = f"{at_least(CHANGED, CHECKED)} * ({SHORTENED})"
AT_MOST = f"{at_most(CHANGED, CHECKED)} * ({SHORTENED})"

HEADLINES = Section(
    "Is the promise kept?",
    (
        Stat(
            "Changed answers",
            "Share of answers with an image that would have been others without the exit, by "
            "shadow runs of the window above: changed of the checked, times the share of requests "
            "that exited.",
            "percentunit",
            Query(OF_ALL),
            decimals=2,
            none="nothing checked",
        ),
        Stat(
            "Promised at most",
            "Share of changed answers that the server's default exits promise by their "
            "calibration. Requests with settings of their own are not covered by it.",
            "percentunit",
            Query(PROMISE),
            decimals=2,
            instant=True,
            none="no promise",
        ),
        Stat(
            "At least (95 %)",
            "Lower bound of the share of changed answers (Byar). Above the promise: broken, and "
            "not by chance.",
            "percentunit",
            Query(AT_LEAST),
            decimals=2,
            none="nothing checked",
        ),
        Stat(
            "At most (95 %)",
            "Upper bound (Byar). Below the promise: kept, and not by chance. Between the two "
            "more checks are needed.",
            "percentunit",
            Query(AT_MOST),
            decimals=2,
            none="nothing checked",
        ),
        Stat(
            "Answers checked",
            "Shadow runs that agreed or changed, in the window above. 150 without a change show "
            "2 %, 600 show 0.5 %.",
            "short",
            Query(CHECKED),
            decimals=0,
        ),
        Stat(
            "NaN from gates",
            "Gate readings that were not a number, over the time shown. Such a gate keeps the "
            "image, so answers stay right and savings vanish. Anything above 0 is a fault.",
            "short",
            Query(increase("dyvte_gate_nan_total", MODEL)),
            steps=((1, BAD),),
            base=GOOD,
            decimals=0,
            instant=True,
        ),
    ),
)

PROMISED = Section(
    "Against the promise",
    (
        TimeSeries(
            "Changed answers, by policy",
            "Of the answers that an exit or pruning shaped and a shadow run checked: the share "
            "that came out differently; one-hour windows. Dashed: what the default exits promise.",
            "percentunit",
            (
                Query(
                    f"avg by (policy) (dyvte:shadow_changed:ratio_rate1h{{{POLICY}}})",
                    "{{policy}}",
                ),
                Query(PROMISE, "promised"),
            ),
            (*by_name(POLICIES), Style("^promised$", BAD, dash=True)),
        ),
        TimeSeries(
            "What the checks show",
            "Share of changed answers among all with an image, with its 95 % bounds (Byar), over "
            "the window above. Broken where even the lower bound is over the promise, kept where "
            "even the upper bound is under it. An upper bound off the scale: too little checked.",
            "percentunit",
            (
                Query(AT_MOST, "at most"),
                Query(OF_ALL, "measured"),
                Query(AT_LEAST, "at least"),
                Query(PROMISE, "promised"),
            ),
            (
                Style("^at (most|least)$", NEUTRAL),
                Style("^measured$", BLUE),
                Style("^promised$", BAD, dash=True),
            ),
            most=0.05,
        ),
    ),
)

CHECKS = Section(
    "The checks",
    (
        TimeSeries(
            "Shadow runs, by outcome",
            "Drawn answers per minute: agreed, changed, skipped (they were sampled), dropped (no "
            "quiet moment came). Much dropped: busy hours go unchecked.",
            "suffix:runs/min",
            (Query(f"60 * {rate(RUNS, POLICY, 'outcome')}", "{{outcome}}"),),
            by_name(SHADOWS),
            stack=True,
            width=6,
        ),
        TimeSeries(
            "Agreement, by policy",
            "Share of the checked answers that stayed the same, over the window above.",
            "percentunit",
            (
                Query(
                    share(
                        increase(RUNS, f'{POLICY}, outcome="agreed"', "policy", "$window"),
                        increase(RUNS, f'{POLICY}, outcome=~"agreed|changed"', "policy", "$window"),
                    ),
                    "{{policy}}",
                ),
            ),
            by_name(POLICIES),
            most=1,
            width=6,
        ),
        TimeSeries(
            "How much is checked",
            "Checked answers as a share of all answers, beside the share that is drawn from those "
            "that an exit shaped.",
            "percentunit",
            (
                Query(
                    share(
                        rate(RUNS, f'{MODEL}, outcome=~"agreed|changed"'),
                        rate("dyvte_request_success_total", MODEL),
                    ),
                    "checked",
                ),
                Query(f"max(dyvte_shadow_share_ratio{{{MODEL}}})", "drawn"),
            ),
            (Style("^checked$", GREEN), Style("^drawn$", GREY, dash=True)),
            width=6,
        ),
        TimeSeries(
            "What checks cost",
            "FLOPs of shadow runs as a share of what ran for requests. They run in quiet moments "
            "only and are in no other figure.",
            "percentunit",
            (
                Query(
                    share(
                        rate("dyvte_shadow_flops_total", MODEL), rate("dyvte_flops_total", MODEL)
                    ),
                    "shadow runs",
                ),
            ),
            (Style("^shadow runs$", YELLOW),),
            width=6,
        ),
    ),
)

DASHBOARD = Dashboard(
    uid="quality",
    title="Quality",
    description="Whether exits change as few answers as promised, and whether gates are sane.",
    sections=(HEADLINES, PROMISED, CHECKS, GATES),
    variables=(WINDOW,),
    since="now-24h",
)
