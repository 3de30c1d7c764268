"""The Kubernetes overlays as a cluster would get them, rendered by kustomize itself."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.programs import ROOT, kustomize, run

KUBERNETES = ROOT / "deploy" / "kubernetes"
Manifest = dict[str, Any]


@cache
def rendered(folder: Path) -> str:
    """The manifests of a kustomization, as YAML; skips the test where there is no kustomize."""
    told = run([*kustomize(), folder])
    assert told.returncode == 0, told.stdout
    return told.stdout


class Overlay:
    """The manifests of one kustomization, by kind."""

    def __init__(self, folder: Path) -> None:
        self.text = rendered(folder)
        self.manifests: list[Manifest] = list(yaml.safe_load_all(self.text))

    def one(self, kind: str) -> Manifest:
        """The only manifest of that kind."""
        (found,) = [each for each in self.manifests if each["kind"] == kind]
        return found

    @property
    def pod(self) -> Manifest:
        """The pod's spec."""
        spec: Manifest = self.one("Deployment")["spec"]["template"]["spec"]
        return spec

    @property
    def server(self) -> Manifest:
        """Its only container."""
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def settings(self) -> dict[str, str]:
        """What the pod's ConfigMap sets."""
        data: dict[str, str] = self.one("ConfigMap")["data"]
        return data


def with_the_adapter(overlay: str, folder: Path) -> Overlay:
    """The overlay with the Prometheus adapter's component in the place of KEDA's."""
    text = (KUBERNETES / overlay / "kustomization.yaml").read_text("utf-8")
    assert "../components/keda" in text
    # kustomize takes relative folders only.
    here = os.path.relpath(KUBERNETES, folder)
    swapped = text.replace("components/keda #", "components/prometheus-adapter #")
    swapped = swapped.replace("../", f"{here}/")
    (folder / "kustomization.yaml").write_text(swapped, "utf-8")
    (folder / "deployment.yaml").write_bytes(
        (KUBERNETES / overlay / "deployment.yaml").read_bytes()
    )
    return Overlay(folder)
