"""The tables of ``docs/performance.md``, written between markers; the rest stays as it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.machine import QUIET_CORES
from benchmarks.peers.campaign import rate
from benchmarks.peers.compare import Check, Row, Spread, checks, compare
from benchmarks.peers.records import Ledger, Record, kept
from benchmarks.peers.workloads import CAPACITY

MIB = 1 << 20


def put(page: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``.

    Raises ValueError if ``page`` lacks them.
    """
    first, last = f"<!-- {name} -->", f"<!-- /{name} -->"
    whole = page.read_text(encoding="utf-8")
    head, opened, rest = whole.partition(first)
    _, closed, tail = rest.partition(last)
    if not opened or not closed:
        raise ValueError(f"{page}: no {first} … {last}")
    page.write_text(f"{head}{first}\n\n{text.strip()}\n\n{last}{tail}", encoding="utf-8")


def picture(path: Path, page: Path, says: str) -> str:
    """A picture at ``path``, as ``page`` shows it."""
    return f"![{says}]({Path(os.path.relpath(path, page.parent)).as_posix()})"


def peers_text(ledger: Ledger, peers: Sequence[str]) -> str:
    """Circumstances, figures with ratios and goals, tokens, start-up and memory."""
    records = ledger.read()
    entries = list(dict.fromkeys(record.entry for record in records))
    entries.sort(key=lambda name: name in peers)
    parts = [
        _circumstances(ledger, records),
        figures_table(compare(records, peers), entries),
        "Ratios to the better peer (in brackets the smallest and largest of the rounds; bold: the "
        "goal, named behind it, is met):",
        ratios_table(compare(records, peers), [name for name in entries if name not in peers]),
        "Tokens of a request, prompt → answer:",
        _tokens_table(checks([r for r in records if r.workload != CAPACITY.name]), entries),
        "Seconds from start to first reply; memory (largest proportional set size after a run):",
        _process_table(records),
    ]
    return "\n\n".join(parts)


def figures_table(rows: Sequence[Row], entries: Sequence[str]) -> str:
    """Medians over the rounds, the better peer's name last."""
    lines = [
        [
            f"{row.workload} {row.figure.label} ({row.figure.unit})",
            *(_value(row, row.values.get(entry)) for entry in entries),
        ]
        for row in rows
    ]
    return table(["", *entries], lines)


def ratios_table(rows: Sequence[Row], entries: Sequence[str]) -> str:
    """Ratios of ``entries``, beside the goals."""
    lines = [
        [
            f"{row.workload} {row.figure.label}",
            row.better or "–",
            *(_ratio(row, entry) for entry in entries),
        ]
        for row in rows
    ]
    return table(["", "better peer", *entries], lines)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """GitHub's Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _value(row: Row, spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return _short(spread.median * row.figure.scale)


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(row: Row, entry: str) -> str:
    ratio, goal = row.ratios.get(entry), row.goal(entry)
    if ratio is None:
        return "–"
    text = f"{ratio.median:.2f}"
    if row.met(entry):
        text = f"**{text}**"
    text += f" ({ratio.low:.2f}–{ratio.high:.2f})"
    if goal is not None:
        text += f" · {'≥' if row.figure.higher_is_better else '≤'} {goal:.2f}"
    return text


def _circumstances(ledger: Ledger, records: Sequence[Record]) -> str:
    used = {record.session for record in records}
    sessions = [each for each in ledger.read_sessions() if each["session"] in used]
    last = sessions[-1] if sessions else {}
    rounds = len({record.round for record in records if record.workload != "capacity"})
    discarded = sum(not record.kept for record in records)
    commits = ", ".join(dict.fromkeys(str(each["commit"]) for each in sessions))
    versions = ", ".join(
        f"{package} {version}"
        for server in last.get("versions", {}).values()
        for package, version in server.items()
    )
    arrivals = rate(records)
    open_loop = "" if arrivals is None else f" W7 arrives at {arrivals:.2f} requests a second."
    return (
        f"{last.get('cpu')}, {last.get('cores')} cores, {str(last.get('date'))[:10]}, commit "
        f"{commits}; {versions}. `{last.get('command')}`: {rounds} rounds, {len(kept(records))} "
        f"runs kept, {discarded} discarded as disturbed.{open_loop}"
    )


def _tokens_table(found: Sequence[Check], entries: Sequence[str]) -> str:
    lines = [
        [
            check.workload,
            *(_tokens(check, entry) for entry in entries),
            "equal" if check.even else "**unequal**",
        ]
        for check in found
    ]
    return table(["", *entries, ""], lines)


def _tokens(check: Check, entry: str) -> str:
    if entry not in check.output_tokens:
        return "–"
    text = f"{check.prompt_tokens[entry] or '?'} → {check.output_tokens[entry]}"
    failed = check.failed[entry]
    return f"{text}, {failed} failed" if failed else text


def _process_table(records: Sequence[Record]) -> str:
    servers: dict[str, list[Record]] = {}
    for record in records:
        servers.setdefault(record.entry.partition(" ")[0], []).append(record)
    lines = [
        [name, _start(runs), f"{max(run.memory_bytes for run in runs) / MIB:.0f} MiB"]
        for name, runs in servers.items()
    ]
    return table(["", "start", "memory"], lines)


def _start(runs: Sequence[Record]) -> str:
    quiet = [run.start_seconds for run in runs if run.start_others <= QUIET_CORES]
    return f"{min(quiet):.1f} s" if quiet else "disturbed"


def circumstances_of(session: Mapping[str, Any]) -> str:
    """One line about where numbers come from."""
    return (
        f"{session['cpu']}, {session['cores']} cores, {str(session['date'])[:10]}, commit "
        f"{session['commit']}. `{session['command']}`"
    )
