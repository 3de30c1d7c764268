"""``make conformance``: schemathesis on the served demo model, with two descriptions.

Ours, from ``/openapi.json``, in all phases, valid and invalid data: no server error, no reply that
the description does not know. OpenAI's, narrowed to what is served: valid data only, which must be
taken, and replies that keep to OpenAI's schemas.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

from tests.conformance.narrowed import narrowed
from tests.conformance.served import served

MODEL = "demo"
# Ours: requests without a length end soon. OpenAI's have one, and up to eight pictures.
FLAGS = {"ours": ("--max-model-len", "512"), "openai": ()}
OPENAI = Path(__file__).with_name("openai_chat.json")
# What a type cannot say (pictures, lengths, exits that fit together) may be refused.
OURS = (
    "--phases",
    "examples,coverage,fuzzing,stateful",
    "--exclude-checks",
    "positive_data_acceptance",
)
CHECKS = "not_a_server_error,response_schema_conformance,positive_data_acceptance"
THEIRS = ("--mode", "positive", "--phases", "coverage,fuzzing", "--checks", CHECKS)


def our_description(url: str) -> Any:
    """Ours, with the names of the models that are served."""
    described = httpx.get(f"{url}/openapi.json", timeout=30).json()
    names = [card["id"] for card in httpx.get(f"{url}/v1/models", timeout=30).json()["data"]]
    for name in ("ChatRequest", "CompletionRequest", "ResponseRequest"):
        if name in described["components"]["schemas"]:
            described["components"]["schemas"][name]["properties"]["model"] = {"enum": names}
    return described


def main() -> int:
    """Serve, run both, tell how each ended."""
    parser = argparse.ArgumentParser(description=__doc__, prog="make conformance")
    parser.add_argument("--schemathesis", type=Path, required=True)
    parser.add_argument("--seconds", type=int, default=600, help="for each description")
    parser.add_argument("--only", choices=("ours", "openai"))
    arguments = parser.parse_args()
    ended = []
    for name in ("ours", "openai"):
        if arguments.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder, served(*FLAGS[name]) as server:
            described, flags, base = (
                (our_description(server.url), OURS, server.url)
                if name == "ours"
                else (
                    narrowed(json.loads(OPENAI.read_text("utf-8")), MODEL),
                    THEIRS,
                    f"{server.url}/v1",
                )
            )
            file = Path(folder) / f"{name}.json"
            file.write_text(json.dumps(described), encoding="utf-8")
            command = [str(arguments.schemathesis.resolve()), "run", str(file), "--url", base]
            limits = ["--max-time", str(arguments.seconds), "--request-timeout", "60"]
            limits += ["--continue-on-failure", "--no-color", "--output-sanitize", "false"]
            ended.append(subprocess.run([*command, *limits, *flags], cwd=folder).returncode)
            sys.stdout.write(f"{name}: exit code {ended[-1]}\n")
            sys.stdout.flush()
    return 1 if any(ended) else 0


if __name__ == "__main__":
    sys.exit(main())
