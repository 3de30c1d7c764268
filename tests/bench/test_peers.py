"""``benchmarks.peers`` without servers: plans, discarding, going on, ratios, the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from benchmarks.peers.bodies import Source
from benchmarks.peers.campaign import REPEATS, Campaign, plan, rate
from benchmarks.peers.compare import checks, compare
from benchmarks.peers.measure import Condition, figures, record_of, requests, send, warm_up
from benchmarks.peers.page import peers_text, put
from benchmarks.peers.processes import ServerFailed
from benchmarks.peers.records import Ledger, Place, Record, kept
from benchmarks.peers.servers import Entry, Server, chosen, read_servers
from benchmarks.peers.workloads import CAPACITY, WORKLOADS, Workload
from dyvte.bench.load import Run
from dyvte.bench.stream import Answer, Failure
from tests.bench.fake_server import FakeServer, running

OURS = Server("ours", ("true",), 1, "m", variants={"off": {"x": 0}, "after 8": {"x": 8}})
FAST = Server("fast", ("true",), 2, "m", peer=True)
SLOW = Server("slow", ("true",), 3, "m", peer=True)
ENTRIES = [entry for server in (OURS, FAST, SLOW) for entry in server.entries()]
W1, W2, W6, W7 = (WORKLOADS[name] for name in ("W1", "W2", "W6", "W7"))


def answer(ttft: float = 0.1, tokens: int = 16) -> Answer:
    times = tuple(ttft + 0.01 * k for k in range(tokens))
    return Answer(times, times[-1], tokens, prompt_tokens=622)


@dataclass
class FakeMeter:
    """Measures nothing: takes ``ttft[entry]``, disturbed as often as ``others`` says."""

    ttft: dict[str, float] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)
    broken: str = ""
    calls: list[tuple[Place, int, float | None]] = field(default_factory=list)

    def __call__(
        self, entry: Entry, workload: Workload, place: Place, attempt: int, seed: int
    ) -> Record:
        if entry.server.name == self.broken:
            raise ServerFailed("it ended")
        self.calls.append((place, attempt, workload.rate))
        one = answer(self.ttft.get(entry.name, 0.1) * (1 + place.round))
        run = Run((one,) * 4, seconds=2.0)
        others = self.others.pop(0) if self.others else 0.0
        return record_of(
            run,
            workload,
            place,
            session="0",
            attempt=attempt,
            others=others,
            server=Condition(1.0, 0.0, 1 << 30),
        )


def record(entry: str, workload: Workload, run: Run) -> Record:
    return record_of(
        run,
        workload,
        Place(0, workload.name, entry),
        session="0",
        attempt=0,
        others=0.1,
        server=Condition(1.0, 0.0, 1 << 30),
    )


def campaign(tmp_path: Path, meter: FakeMeter) -> Campaign:
    return Campaign(Ledger(tmp_path), meter, say=lambda text: None)


def test_every_round_begins_with_another_entry() -> None:
    order = [step.entry.name for step in plan(ENTRIES, [W1], 4)]
    firsts = order[::4]
    assert firsts == ["ours off", "ours after 8", "fast", "slow"]
    assert Counter(order) == dict.fromkeys(firsts, 4)


def test_a_server_is_left_out_of_workloads_that_it_is_not_measured_under() -> None:
    picky = Entry(replace(FAST, workloads=("W1",)))
    steps = list(plan([ENTRIES[0], picky], [W1, W2], 1))
    assert [(s.workload.name, s.entry.name) for s in steps] == [
        ("W1", "ours off"), ("W1", "fast"), ("W2", "ours off"),
    ]  # fmt: skip


def test_the_open_loop_arrives_at_a_share_of_the_best_peers_capacity(tmp_path: Path) -> None:
    meter = FakeMeter()
    assert campaign(tmp_path, meter).run(list(plan(ENTRIES, [W7], 1))) == []
    capacity = [place.entry for place, _, _ in meter.calls if place.workload == CAPACITY.name]
    assert capacity == ["fast", "slow"]
    assert rate(Ledger(tmp_path).read()) == pytest.approx(0.7 * 4 / 2.0)
    assert {used for place, _, used in meter.calls if place.workload == "W7"} == {1.4}


def test_a_disturbed_run_is_repeated_twice_and_never_used(tmp_path: Path) -> None:
    meter = FakeMeter(others=[0.5, 0.16, 0.15, 0.2, 0.2, 0.2, 0.0])
    left = campaign(tmp_path, meter).run(list(plan(ENTRIES[:3], [W1], 1)))
    assert [attempt for _, attempt, _ in meter.calls] == [0, 1, 2, 0, 1, 2, 0]
    assert [place.entry for place in left] == ["ours after 8"]
    records = Ledger(tmp_path).read()
    assert len(records) == 3 + (REPEATS + 1) + 1
    assert {place.entry: record.others for place, record in kept(records).items()} == {
        "ours off": 0.15,
        "fast": 0.0,
    }


def test_a_second_call_measures_only_what_is_missing(tmp_path: Path) -> None:
    steps = list(plan(ENTRIES, [W1, W2], 2))
    assert campaign(tmp_path, FakeMeter()).run(steps[:5]) == []
    with (tmp_path / "runs.jsonl").open("a") as file:
        file.write('{"session": "0", "rou')  # cut while it was written
    second = FakeMeter()
    assert campaign(tmp_path, second).run(steps) == []
    assert [place for place, _, _ in second.calls] == [step.place for step in steps[5:]]
    assert len(kept(Ledger(tmp_path).read())) == len(steps)
    third = FakeMeter()
    campaign(tmp_path, third).run(steps)
    assert third.calls == []


def test_no_run_begins_after_the_deadline(tmp_path: Path) -> None:
    meter = FakeMeter()
    late = campaign(tmp_path, meter)
    late.deadline = 0.0
    assert len(late.run(list(plan(ENTRIES, [W1], 1)))) == 4
    assert meter.calls == []


def test_a_server_that_fails_is_left_out_and_the_others_go_on(tmp_path: Path) -> None:
    left = campaign(tmp_path, FakeMeter(broken="fast")).run(list(plan(ENTRIES, [W1], 2)))
    assert {place.entry for place in left} == {"fast"}
    assert len(Ledger(tmp_path).read()) == 6


def test_ratios_are_taken_round_by_round_against_the_better_peer(tmp_path: Path) -> None:
    times = {"ours off": 0.1, "ours after 8": 0.06, "fast": 0.125, "slow": 0.2}
    campaign(tmp_path, FakeMeter(ttft=times)).run(list(plan(ENTRIES, [W1], 3)))
    row = compare(Ledger(tmp_path).read(), ["fast", "slow"])[0]
    assert (row.workload, row.figure.name, row.better) == ("W1", "ttft", "fast")
    # Each round was slower than the one before; its ratios are not.
    assert row.values["fast"].high == pytest.approx(3 * row.values["fast"].low)
    ratio = row.ratios["ours off"]
    assert (ratio.median, ratio.low, ratio.high) == pytest.approx((0.8, 0.8, 0.8))
    assert row.met("ours off") is True
    assert row.met("ours after 8") is True
    assert row.met("slow") is None


def test_where_more_is_better_the_better_peer_is_the_one_with_more() -> None:
    seconds = {"ours off": 2.5, "fast": 3.0, "slow": 6.0}
    records = [record(name, W2, Run((answer(),) * 6, s)) for name, s in seconds.items()]
    row = compare(records, ["fast", "slow"])[0]
    assert row.better == "fast"
    assert row.ratios["ours off"].median == pytest.approx(1.2)
    assert row.met("ours off") is True


def test_times_of_a_conversation_leave_its_first_turn_out() -> None:
    turns = [answer(9.0), answer(0.1), answer(0.2), answer(0.3), answer(0.4)]
    found = figures(Run(tuple(turns), 10.0), W6)
    assert found["ttft"] == pytest.approx(0.25)
    assert figures(Run((Failure("full", 0.1),), 1.0), W1)["ttft"] is None


def test_unequal_tokens_and_failures_are_told() -> None:
    long, short = (Run((answer(tokens=tokens),) * 3, 1.0) for tokens in (16, 12))
    assert checks([record("fast", W1, long), record("slow", W1, long)])[0].even
    assert not checks([record("fast", W1, long), record("slow", W1, short)])[0].even
    broken = Run((answer(), Failure("HTTP 500", 0.1)), 1.0)
    assert checks([record("fast", W1, broken)])[0].failed == {"fast": 1}


def test_a_run_against_a_server_ends_in_a_record() -> None:
    workload = replace(W2, requests=4, tokens=3)
    fake = FakeServer()
    with running(fake) as url:
        server = Server("fake", ("true",), int(url.split(":")[2].split("/")[0]), "fake")
        entry = Entry(server, "off", {"dyvte": {"policy": "off"}})
        run = send(entry, requests(entry, workload, Source(0, "s")), workload, 0)
    assert [sent["dyvte"] for sent in fake.requests] == [{"policy": "off"}] * 4
    found = record(entry.name, workload, run)
    assert found.kept
    assert found.output_tokens == [3] * 4
    assert (found.figures["ttft"] or 0.0) >= fake.first_s


def test_warming_up_is_short_and_as_wide_as_the_run() -> None:
    small = warm_up(WORKLOADS["W3"])
    assert (small.requests, small.concurrency, small.tokens) == (8, 8, 8)
    assert warm_up(W6).requests == 5
    assert warm_up(W7).concurrency == 8


def test_the_file_of_servers_is_read_and_what_is_missing_is_told(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    table = '[[server]]\nname="a"\nport=1\nmodel="m"\ncommand=["$peers/a", "$port", \'{"i":1}\']\n'
    path.write_text(table)
    found = read_servers(path, {"peers": "/p"})
    assert found[0].command == ("/p/a", "1", '{"i":1}')
    assert chosen(found, None) == []
    with pytest.raises(ValueError, match="no program /p/a"):
        chosen(found, ["a"])
    path.write_text(table + table.replace('"a"', '"b"'))
    with pytest.raises(ValueError, match="one port"):
        read_servers(path, {"peers": "/p"})
    path.write_text('[[server]]\nname="a"\n')
    with pytest.raises(ValueError, match="server a: no 'port'"):
        read_servers(path, {})


def test_the_page_keeps_what_stands_outside_of_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- peers -->\nstale table\n<!-- /peers -->\nafter\n")
    campaign(tmp_path, FakeMeter()).run(list(plan(ENTRIES, [W1], 2)))
    ledger = Ledger(tmp_path)
    session = {"cpu": "c", "cores": 2, "date": "2026-01-01", "commit": "abc", "command": "x"}
    assert ledger.open_session(session) == "0"
    put(page, "peers", peers_text(ledger, ["fast", "slow"]))
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert "| W1 TTFT (ms) | 150 | 150 | 150 | 150 |" in text
    assert "1.00 (1.00–1.00) · ≤ 0.90" in text
    with pytest.raises(ValueError, match="no <!-- other -->"):
        put(page, "other", "text")
