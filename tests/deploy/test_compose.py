"""The compose file: reachable from this machine only, hardened, and in accord with the server."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dyvte
from server.lifecycle import LAST_WORDS_S
from server.listen import LAST_CONNECTIONS_S
from server.settings import Settings
from tests.deploy.programs import ROOT, compose, linter, run

FILE = ROOT / "docker-compose.yml"
TEXT = FILE.read_text("utf-8")
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
SERVERS = ("server", "server-gpu")

every_service = pytest.mark.parametrize("name", SERVICES)


@every_service
def test_a_service_is_reachable_from_this_machine_only(name: str) -> None:
    assert SERVICES[name]["ports"]
    assert [port for port in SERVICES[name]["ports"] if not port.startswith("127.0.0.1:")] == []


@every_service
def test_a_service_can_do_nothing_that_it_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service.get("user") != "root"


@every_service
def test_a_service_is_bounded_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert {"max-size", "max-file"} <= service["logging"]["options"].keys()
    assert "healthcheck" in service or "build" in service  # the image brings its own
    assert service["restart"] == "unless-stopped"


@every_service
def test_an_image_is_pinned_to_a_full_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-cpu|-cuda)?", image)
    if name in SERVERS:
        assert image.startswith(f"dyvte:{dyvte.__version__}-")


@every_service
def test_what_is_mounted_from_the_project_is_there(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source, target, *mode = volume.replace("${DYVTE_MODELS:-models}", "models").split(":")
        if source.startswith("."):
            assert (ROOT / source).is_dir()
            assert mode == ["ro"]
        else:
            assert source in STACK["volumes"], target


def test_no_password_stands_in_the_file() -> None:
    secrets = {
        key: value
        for service in SERVICES.values()
        for key, value in service.get("environment", {}).items()
        if re.search("PASSWORD|KEY|TOKEN|SECRET", key)
    }
    assert secrets.keys() == {"GF_SECURITY_ADMIN_PASSWORD", "DYVTE_API_KEY", "HF_TOKEN"}
    assert secrets.pop("GF_SECURITY_ADMIN_PASSWORD") == "${GRAFANA_ADMIN_PASSWORD:-}"
    assert set(secrets.values()) == {None}


def grafana_password(given: str | None) -> str:
    """What Grafana would be started with, by the file's own entry point."""
    shell, flag, script = SERVICES["grafana"]["entrypoint"]
    command = script.replace("$$", "$").replace("exec /run.sh", "printenv $0")
    return subprocess.run(
        [shell, flag, command, "GF_SECURITY_ADMIN_PASSWORD"],
        env={"PATH": os.environ["PATH"], "GF_SECURITY_ADMIN_PASSWORD": given or ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()


def test_grafana_has_the_operators_password_or_one_that_nobody_knows() -> None:
    assert grafana_password("chosen") == "chosen"
    first, second = grafana_password(None), grafana_password(None)
    assert first != second
    assert len(first) >= 43  # 32 random bytes


@pytest.mark.parametrize("name", SERVERS)
def test_every_setting_passed_on_is_one_of_the_server(name: str) -> None:
    environment = SERVICES[name]["environment"]
    named = {key.removeprefix("DYVTE_").lower() for key in environment if key.startswith("DYVTE_")}
    assert {"model", "api_key", "device"} <= named <= Settings.model_fields.keys()


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_is_given_the_time_that_it_drains(name: str) -> None:
    drain = float(SERVICES[name]["environment"]["DYVTE_DRAIN_TIMEOUT"])
    grace = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))
    assert grace >= drain + LAST_WORDS_S + LAST_CONNECTIONS_S + 5


def test_the_gpu_server_takes_the_place_of_the_other_under_its_name() -> None:
    gpu, cpu = SERVICES["server-gpu"], SERVICES["server"]
    assert gpu["profiles"] == ["gpu"]
    assert "profiles" not in cpu
    assert gpu["networks"]["default"]["aliases"] == ["server"]
    assert gpu["build"]["args"]["VARIANT"] == gpu["environment"]["DYVTE_DEVICE"] == "cuda"
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_the_watcher_waits_for_nothing_that_it_watches() -> None:
    assert SERVICES["prometheus"]["depends_on"].keys() == {"alertmanager"}
    assert SERVICES["grafana"]["depends_on"].keys() == {"prometheus"}


@pytest.mark.parametrize("profile", ["", "gpu"])
def test_compose_accepts_the_file(profile: str) -> None:
    environment = {**os.environ, "COMPOSE_PROFILES": profile}
    told = run([*compose(), "--file", FILE, "config", "--quiet"], environment)
    assert (told.returncode, told.stdout) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("  cap_drop: [ALL]", "  cap_dropped: [ALL]", "cap_dropped is not allowed"),
        ("read_only: true", "read_only: 3", "read_only must be a boolean"),
        ("condition: service_healthy", "condition: healthy", "condition must be one of"),
        ("\n      alertmanager:", "\n      alertmonger:", "undefined service"),
    ],
)
def test_compose_catches_a_planted_error(tmp_path: Path, right: str, wrong: str, told: str) -> None:
    assert right in TEXT
    planted = tmp_path / "docker-compose.yml"
    planted.write_text(TEXT.replace(right, wrong), "utf-8")
    result = run([*compose(), "--file", planted, "config", "--quiet"])
    assert result.returncode != 0
    assert told in result.stdout


SCHEMA = ["--builtin-schema", "vendor.compose-spec"]


def test_the_file_holds_to_the_compose_specification() -> None:
    told = run([linter("check-jsonschema"), *SCHEMA, FILE])
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("  cap_drop: [ALL]", "  cap_dropped: [ALL]"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("retries: 3", "retries: {three: 3}"),
    ],
)
def test_the_specification_catches_a_planted_error(tmp_path: Path, right: str, wrong: str) -> None:
    assert right in TEXT
    planted = tmp_path / "docker-compose.yml"
    planted.write_text(TEXT.replace(right, wrong), "utf-8")
    told = run([linter("check-jsonschema"), *SCHEMA, planted])
    assert told.returncode == 1
    assert "Schema validation errors" in told.stdout
