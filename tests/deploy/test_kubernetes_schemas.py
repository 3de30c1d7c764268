"""The rendered manifests against Kubernetes' own schemas, and custom resources against ours."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.deploy.overlays import KUBERNETES, Overlay, with_the_adapter
from tests.deploy.programs import linter, run

# The oldest that knows every field in use, and the newest whose schemas the linter brings.
VERSIONS = ("1.31", "1.37")
CUSTOM: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parent / "custom-resources.yaml").read_text("utf-8")
)
KINDS = ("PodMonitor", "ScaledObject")


def validate(text: str, folder: Path, version: str) -> str:
    """What kubernetes-validate has against the manifests; "" where it is content."""
    file = folder / "manifests.yaml"
    native = [each for each in yaml.safe_load_all(text) if each["kind"] not in KINDS]
    file.write_text(yaml.safe_dump_all(native), "utf-8")
    told = run([linter("kubernetes-validate"), "--strict", "-k", version, file])
    return told.stdout if told.returncode else ""


def against_custom(manifest: dict[str, Any]) -> list[str]:
    """What our schema of its kind has against a custom resource."""
    schema = {"$ref": f"#/$defs/{manifest['kind']}", "$defs": CUSTOM["$defs"]}
    found = jsonschema.Draft202012Validator(schema).iter_errors(manifest)
    return [error.message for error in found]


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_every_manifest(overlay: Overlay, tmp_path: Path, version: str) -> None:
    assert validate(overlay.text, tmp_path, version) == ""


def test_kubernetes_takes_the_adapters_variant(tmp_path: Path) -> None:
    adapted = with_the_adapter("cpu", tmp_path)
    assert validate(adapted.text, tmp_path, VERSIONS[0]) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "told"),
    [
        ("readOnlyRootFilesystem: true", "readOnlyRootFileSystem: true", "RootFileSystem"),
        ("containerPort: 8000", "containerPort: http", "'http' is not of type 'integer'"),
        ("policyTypes:", "policyType:", "policyType"),
    ],
)
def test_kubernetes_catches_a_planted_error(
    tmp_path: Path, right: str, wrong: str, told: str
) -> None:
    text = Overlay(KUBERNETES / "cpu").text
    assert right in text
    assert told in validate(text.replace(right, wrong), tmp_path, VERSIONS[0])


def test_custom_resources_hold_to_their_documentation(overlay: Overlay) -> None:
    for kind in KINDS:
        assert against_custom(overlay.one(kind)) == []


def misspell_path(spec: dict[str, Any]) -> None:
    spec["podMetricsEndpoints"][0]["paths"] = "/metrics"


def number_as_threshold(spec: dict[str, Any]) -> None:
    spec["triggers"][0]["metadata"]["threshold"] = 2


def forget_target(spec: dict[str, Any]) -> None:
    del spec["scaleTargetRef"]


@pytest.mark.parametrize(
    ("kind", "plant"),
    [
        ("PodMonitor", misspell_path),
        ("ScaledObject", number_as_threshold),
        ("ScaledObject", forget_target),
    ],
)
def test_custom_resources_show_a_planted_error(
    kind: str, plant: Callable[[dict[str, Any]], None]
) -> None:
    manifest = deepcopy(Overlay(KUBERNETES / "cpu").one(kind))
    plant(manifest["spec"])
    assert against_custom(manifest)
