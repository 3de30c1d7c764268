"""What metrics cost the engine: seconds inside its observer beside the seconds of its steps.

Requests with pictures and mixed exits run through a real engine core, as the server drives it, with
the families of ``/metrics`` as observer. Both are taken as CPU time of the engine's thread, so that
other work on the machine does not count. What a scrape costs is told apart: it runs in the server's
thread, once every few seconds.

    python -m benchmarks.metrics_cost --model demo --requests 64 --max-tokens 32
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import torch
from PIL import Image
from prometheus_client import CollectorRegistry, generate_latest

import dyvte
from benchmarks.machine import Origin
from dyvte.engine.build import build_core
from dyvte.engine.core import EngineCore
from dyvte.engine.events import EngineRequest
from dyvte.engine.info import describe
from dyvte.engine.sequence import RequestState
from server.engine_metrics import EngineMetrics, add_state
from server.metric_families import Families
from server.request_metrics import RequestMetrics
from server.shadow_metrics import Promise, ShadowMetrics

EXITS = (
    None,
    dyvte.ExitOptions("off"),
    dyvte.ExitOptions(aggressiveness=0.5),
    dyvte.ExitOptions("fixed", exit_layer=1),
)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of the engine's thread; ``observers`` on top of ``steps``."""

    steps: int
    requests: int
    step_seconds: float
    on_step_seconds: float
    on_finish_seconds: float
    page_seconds: float
    page_bytes: int

    @property
    def share(self) -> float:
        """Observers' time per time of steps."""
        return (self.on_step_seconds + self.on_finish_seconds) / self.step_seconds


def observer_of(core: EngineCore, registry: CollectorRegistry) -> EngineMetrics:
    """The families of a server with this engine, less those of HTTP."""
    info, families = describe(core.model, core), Families(registry, "bench")
    policies = tuple(dict.fromkeys((*info.policies, "off")))
    add_state(families, core.snapshot)
    requests = RequestMetrics(families, policies, info.num_layers)
    return EngineMetrics(families, requests, ShadowMetrics(families, policies, 0.0, Promise("off")))


def measure(core: EngineCore, requests: Iterable[EngineRequest]) -> Cost:
    """Run ``requests`` to their ends, all put in the line at once."""
    registry = CollectorRegistry()
    observer = observer_of(core, registry)
    states = [core.check(request) for request in requests]
    for state in states:
        core.add(state)
    left, steps, on_step, on_finish, in_steps = list(states), 0, 0.0, 0.0, 0.0
    while core.has_work:
        began = time.thread_time()
        core.step()
        stepped = time.thread_time()
        observer.on_step(core.last_step)
        observed = time.thread_time()
        done = [state for state in left if state.done]
        left = [state for state in left if not state.done]
        on_finish += _finish(core, observer, done)
        steps, in_steps, on_step = (
            steps + 1,
            in_steps + stepped - began,
            on_step + observed - stepped,
        )
    began = time.thread_time()
    page = generate_latest(registry)
    spent = time.thread_time() - began
    return Cost(steps, len(states), in_steps, on_step, on_finish, spent, len(page))


def _finish(core: EngineCore, observer: EngineMetrics, done: Sequence[RequestState]) -> float:
    """CPU seconds of counting requests; the accounts themselves are the replies'."""
    accounts = [core.stats_of(state) for state in done]
    began = time.thread_time()
    for account in accounts:
        observer.on_finish(account)
    return time.thread_time() - began


def questions(model: dyvte.Model, count: int, max_tokens: int) -> list[EngineRequest]:
    """``count`` requests over plain pictures, exits in turn."""
    sampling = dyvte.SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    made = []
    for number in range(count):
        picture = Image.new("RGB", (64, 64), (number * 37 % 256, number * 91 % 256, 128))
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": "What color is it?"}]
        prompt = model.prompt([{"role": "user", "content": parts}])
        made.append(EngineRequest(f"{number}", prompt, sampling, EXITS[number % len(EXITS)]))
    return made


def main(argv: Sequence[str]) -> int:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=32)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    model = dyvte.load(args.model, dtype="float32")
    core = build_core(model)
    measure(core, questions(model, 2, 2))  # the first steps of a process pay for its start
    cost = measure(core, questions(model, args.requests, args.max_tokens))
    origin = Origin.here(["python", "-m", "benchmarks.metrics_cost", *argv], seed=0, device="cpu")
    print(json.dumps({"share": round(cost.share, 6), **asdict(cost), **origin.as_json()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
