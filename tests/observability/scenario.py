"""Three acts on a real stack: healthy traffic, everything wrong at once, recovery.

Every alert's condition is made true for real but one: a server that answers 500 is a page of
numbers (exporter.py), since no request is known that makes ours do so.

| alert | how it comes about |
|---|---|
| DyvteTargetDown, DyvteNotReady | a server must end while it answers: it drains, then it is gone |
| DyvteGatesNaN | it comes back with gates whose weights are NaN |
| DyvteQueueGrowing, DyvteQueueFull | it gets more and more requests, then too many for its line |
| DyvteMediaErrors | half of the images are no images |
| DyvteSavingsFell | requests exit at layer 10 of 12 only, where they exited by gates before |
| DyvteExitsSlower | all requests without exits are short texts |
| DyvteExitRiskAbovePromise | requests ask for aggressiveness 1; shadow runs find what it changed |
| DyvteServerErrors | the page of numbers |
| DyvteAllDown | all are killed |
"""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from tests.observability.exporter import Exporter
from tests.observability.stack import ROOT, Stack, free_port, until
from tests.observability.traffic import (
    BROKEN,
    DEFAULT,
    EAGER,
    HEALTHY,
    LATE,
    LONG,
    OFF_TEXT,
    Clients,
    Kind,
)

FLAGS = ("--model", "demo", "--device", "cpu", "--dtype", "float32")
MAIN = (*FLAGS, "--shadow-share", "1")
SPARE = (*FLAGS, "--drain-timeout", "12")
NARROW = (*FLAGS, "--max-num-seqs", "2", "--max-waiting", "30")
SERVERS = ("main", "spare")
HEALTHY_S = 60.0
STEEP = 1.2  # requests that the line grows by in a second


@dataclass
class Watch:
    """Looks at Alertmanager twice a second; ``seen`` has each alert's first moment."""

    stack: Stack
    seen: dict[str, float] = field(default_factory=dict)
    now: set[str] = field(default_factory=set)
    _done: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Look from now on, in a thread."""
        threading.Thread(target=self._look, daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._done.set()

    def saw(self, *names: str) -> Callable[[], bool]:
        """Whether all of these have fired."""
        return lambda: self.seen.keys() >= set(names)

    def _look(self) -> None:
        while not self._done.wait(0.5):
            self.now = self.stack.alerts()
            for name in self.now:
                self.seen.setdefault(name, time.time())


@dataclass
class Play:
    """The stack, who watches it, and the clients of its main server."""

    stack: Stack
    exporter: Exporter
    watch: Watch
    clients: Clients


def open_play(folder: Path) -> Play:
    """Two servers with the demo model, a page of numbers, and those who watch them."""
    stack = Stack(folder)
    try:
        stack.ports["numbers"] = free_port()
        with ThreadPoolExecutor() as pool:
            starts = [
                pool.submit(stack.serve, "main", *MAIN),
                pool.submit(stack.serve, "spare", *SPARE),
            ]
            for start in starts:
                start.result()
        exporter = Exporter(stack.ports["numbers"])
        stack.watch((*SERVERS, "numbers"))
    except BaseException:
        stack.close()
        raise
    watch = Watch(stack)
    watch.start()
    return Play(stack, exporter, watch, Clients(stack.url("main"), workers=6))


def healthy(play: Play, seconds: float = HEALTHY_S) -> None:
    """Mixed traffic with rests, in which shadow runs find their moments; one bad image at first."""
    play.clients.send_all([BROKEN, DEFAULT])
    keep(play, HEALTHY, seconds)


def trouble(play: Play) -> None:
    """All conditions but DyvteAllDown's; returns when every alert fired or time is up."""
    play.exporter.fail(True)
    until(lambda: play.clients.send_all((EAGER,) * 6) and _changed(play) >= 5, 60, every=0.8)
    with ThreadPoolExecutor() as pool:
        elsewhere = pool.submit(_trouble_with_the_spare, play)
        burst = (OFF_TEXT, LATE, BROKEN) * 8
        wanted = play.watch.saw(
            "DyvteMediaErrors", "DyvteSavingsFell", "DyvteExitsSlower", "DyvteExitRiskAbovePromise"
        )
        keep(play, burst, 150, lambda: not (wanted() and elsewhere.done()), rest=0.2)
        elsewhere.result()
    play.exporter.fail(False)


def recovery(play: Play) -> set[str]:
    """Healthy traffic until nothing fires, then all servers die and come back; what resolved."""
    watch = play.watch
    play.stack.stop("spare")
    play.stack.serve("spare", *SPARE)
    keep(play, HEALTHY, 150, lambda: bool(watch.now))
    resolved = watch.seen.keys() - watch.now
    play.exporter.close()
    for name in SERVERS:
        play.stack.stop(name)
    if until(watch.saw("DyvteAllDown"), 30):
        play.stack.serve("main", *MAIN)
        until(lambda: "DyvteAllDown" not in watch.now, 30)
        resolved |= {"DyvteAllDown"} - watch.now
    return resolved


def keep(
    play: Play,
    burst: Sequence[Kind],
    seconds: float,
    going: Callable[[], bool] = lambda: True,
    rest: float = 1.5,
) -> None:
    """Bursts on the main server for some time, or until it need not go on."""
    end = time.monotonic() + seconds
    play.clients.keep(burst, rest, lambda: time.monotonic() < end and going())


def _changed(play: Play) -> float:
    """Answers by gates that shadow runs have found changed so far."""
    labels = 'model_name="demo",outcome="changed",policy="gate"'
    return play.stack.metric("main", f"dyvte_shadow_runs_total{{{labels}}}")


def _trouble_with_the_spare(play: Play) -> None:
    stack, watch = play.stack, play.watch
    last = Clients(stack.url("spare"), workers=24)
    answers = [last.send(LONG) for _ in range(24)]
    until(lambda: stack.metric("spare", "dyvte_requests_running") > 0, 20)
    stack.stop("spare", signal.SIGTERM)
    until(watch.saw("DyvteNotReady", "DyvteTargetDown"), 20)
    for answer in answers:
        answer.result()
    last.close()
    stack.serve("spare", *NARROW, "--gates", str(_nan_gates(stack.folder / "nan-gates")))
    crowd = Clients(stack.url("spare"), workers=60)
    until(lambda: crowd.send_all((DEFAULT,) * 2) and watch.saw("DyvteGatesNaN")(), 30)
    _crowd(crowd, lambda: stack.metric("spare", "dyvte_requests_waiting"), watch)
    crowd.close()


def _crowd(crowd: Clients, waiting: Callable[[], float], watch: Watch) -> None:
    """A line that grows whatever the machine's speed; then many more than fit."""
    begin = time.monotonic()
    grown = watch.saw("DyvteQueueGrowing")
    while not grown() and time.monotonic() < begin + 40:
        want = min(28.0, 3 + STEEP * (time.monotonic() - begin))
        for _ in range(max(0, round(want - waiting()))):
            crowd.send(LONG)
        time.sleep(0.5)
    full = watch.saw("DyvteQueueFull")
    while not full() and time.monotonic() < begin + 70:
        for _ in range(8):
            crowd.send(LONG)
        time.sleep(0.5)


def _nan_gates(folder: Path) -> Path:
    """The demo's gates with NaN for weights."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(ROOT / "dyvte/demo/assets/gates", folder)
    path = folder / "gates.safetensors"
    weights = load_file(path)
    save_file({name: torch.full_like(each, torch.nan) for name, each in weights.items()}, path)
    return folder
