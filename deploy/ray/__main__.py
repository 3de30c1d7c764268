"""``python -m deploy.ray --replicas 2 [flags of dyvte serve]``: a fleet on this machine.

Starts Ray, or joins the cluster that ``RAY_ADDRESS`` names; ends it in order on a signal.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

# Before ray is imported anywhere: it reads these once. Ray would run its workers at nice 15; here
# they are what the machine is for.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")

import ray
import structlog
from pydantic import ValidationError
from ray import serve

from deploy.ray.application import FleetOptions, application
from server.commandline import flag, load_settings
from server.logs import configure_logs
from server.settings import ConfigError, Settings

ROOT = Path(__file__).parents[2]
NAME = "dyvte"
FAILED = 2
KEEP_ALIVE_S = 30
JOINED = os.environ.get("RAY_ADDRESS")

log = structlog.get_logger("dyvte.fleet")


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal. Returns the exit code."""
    try:
        fleet, rest = _fleet(argv)
        settings = load_settings(rest)
    except ConfigError as error:
        sys.stderr.write(f"python -m deploy.ray: {error}\n")
        return FAILED
    configure_logs(settings.log_level, settings.log_format)
    start(settings, fleet)
    stop = threading.Event()
    # After the start, since Ray sets handlers of its own, which end the process at once.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    log.info("ready", host=settings.host, port=settings.port, model=settings.name)
    stop.wait()
    log.info("ending")
    end(settings)
    return 0


def start(settings: Settings, fleet: FleetOptions) -> None:
    """Bring the fleet up; returns when it can answer. Raises what Ray raises where it cannot."""
    if JOINED:
        ray.init(JOINED)
    else:
        found_here = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init("local", runtime_env=found_here, include_dashboard=False)
    serve.start(
        http_options={
            "host": settings.host,
            "port": settings.port,
            "keep_alive_timeout_s": KEEP_ALIVE_S,
        }
    )
    serve.run(application(settings, fleet), name=NAME)


def end(settings: Settings) -> None:
    """Let those inside finish; then end what we started, and leave a joined cluster as it is."""
    # Ray waits a minute a call; what is still inside after the time given, it has killed.
    for _ in range(1 + int(settings.drain_timeout // 45)):
        try:
            serve.delete(NAME)
            break
        except TimeoutError:
            continue
    if not JOINED:
        serve.shutdown()
    ray.shutdown()


def _fleet(argv: Sequence[str] | None) -> tuple[FleetOptions, list[str]]:
    """The fleet, and the words that are the server's. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.ray",
        allow_abbrev=False,
        description="The server with many replicas under Ray Serve. Further flags are those of "
        "dyvte serve.",
    )
    add = parser.add_argument
    add("--replicas", default="2", metavar="N[-M]", help="number, or a range to scale in (2)")
    add("--target-ongoing-requests", default=16.0, type=float, metavar="R")
    add("--ingress-replicas", default=1, type=int, metavar="N")
    add("--cpus", default=1.0, type=float, metavar="C", help="CPU cores per replica (1)")
    add("--gpus", default=0.0, type=float, metavar="G", help="GPUs per replica (0)")
    add("--monitor-port", default=0, type=int, metavar="P", help="of each replica (0: any)")
    args, rest = parser.parse_known_args(argv)
    low, _, high = args.replicas.partition("-")
    given = {name: value for name, value in vars(args).items() if name != "replicas"}
    try:
        fleet = {**given, "min_replicas": low, "max_replicas": high or low}
        return FleetOptions.model_validate(fleet), rest
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "replicas"
        if name in ("min_replicas", "max_replicas", "replicas"):
            text = f"--replicas {args.replicas}: give a number or a range, for example 1-4"
        else:
            text = f"{flag(name)} {first['input']}: {first['msg'].lower()}"
        raise ConfigError(text) from error


if __name__ == "__main__":
    sys.exit(main())
