"""Programs that the deployment's tests call; a test whose program is missing is skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command's result from the root of the project, its error output after its output."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


def linter(name: str) -> str:
    """The path of a linter; skips the test where it is not installed."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed: make check-deploy brings it")
    return path


def compose() -> list[str]:
    """`docker compose`, version 2; skips the test where there is none."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) is None:
            continue
        told = run([*command, "version", "--short"])
        if told.returncode == 0 and told.stdout.strip().lstrip("v") >= "2":
            return command
    pytest.skip("docker compose, version 2, is not installed")


def kustomize() -> list[str]:
    """What renders a kustomization; skips the test where there is nothing."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        return ["kubectl", "kustomize"]
    pytest.skip("neither kustomize nor kubectl is installed")
