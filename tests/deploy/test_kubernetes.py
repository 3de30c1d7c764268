"""The overlays: in accord with the server, closed where nothing need be open, able to scale."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import dyvte
from server.lifecycle import LAST_WORDS_S
from server.listen import LAST_CONNECTIONS_S
from server.settings import Settings
from tests.deploy.overlays import KUBERNETES, Overlay, with_the_adapter

NAME = {"app.kubernetes.io/name": "dyvte"}


def test_the_settings_are_ones_that_the_server_takes(
    overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(overlay.settings))
    named = {key.removeprefix("DYVTE_").lower() for key in overlay.settings}
    assert named == Settings().model_fields_set


def test_a_pod_is_given_the_time_that_it_drains(overlay: Overlay) -> None:
    before = float(overlay.server["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(overlay.settings["DYVTE_DRAIN_TIMEOUT"])
    needed = before + drain + LAST_WORDS_S + LAST_CONNECTIONS_S
    assert overlay.pod["terminationGracePeriodSeconds"] >= needed + 5


def test_probes_ask_what_they_mean(overlay: Overlay) -> None:
    asked = {
        name: overlay.server[name]["httpGet"]
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert [probe["path"] for probe in asked.values()] == ["/health", "/health", "/ready"]
    assert {probe["port"] for probe in asked.values()} == {"http"}
    assert overlay.server["ports"] == [{"name": "http", "containerPort": 8000}]


def test_no_variable_of_a_service_becomes_a_setting(overlay: Overlay) -> None:
    """A Service named dyvte would set DYVTE_PORT=tcp://…, which the server refuses as a port."""
    assert overlay.one("Service")["metadata"]["name"] == "dyvte"
    assert overlay.pod["enableServiceLinks"] is False


def test_a_pod_can_do_nothing_that_it_need_not(overlay: Overlay) -> None:
    pod = overlay.pod["securityContext"]
    assert pod["runAsNonRoot"] is True
    assert pod["runAsUser"] == 10001
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert overlay.server["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert overlay.pod["automountServiceAccountToken"] is False
    assert overlay.one("ServiceAccount")["automountServiceAccountToken"] is False
    labels = overlay.one("Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_secrets_are_named_and_never_written(overlay: Overlay) -> None:
    by_name = {variable["name"]: variable["valueFrom"] for variable in overlay.server["env"]}
    assert by_name["DYVTE_API_KEY"] == {"secretKeyRef": {"name": "dyvte", "key": "api-key"}}
    assert "Secret" not in {manifest["kind"] for manifest in overlay.manifests}


def test_everything_that_selects_pods_selects_these(overlay: Overlay) -> None:
    labels = overlay.one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert NAME.items() <= labels.items()
    assert overlay.one("Service")["spec"]["selector"] == NAME
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        assert overlay.one(kind)["spec"]["selector"]["matchLabels"] == NAME, kind
    assert overlay.one("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == NAME


def test_nothing_comes_in_but_http_and_nothing_goes_out_but_names_and_https(
    overlay: Overlay,
) -> None:
    policy = overlay.one("NetworkPolicy")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    (ingress,) = policy["ingress"]
    assert ingress["ports"] == [{"protocol": "TCP", "port": "http"}]
    assert len(ingress["from"]) == 3
    assert {} not in ingress["from"]
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[53, 53], [443]]
    public = policy["egress"][1]["to"][0]["ipBlock"]
    assert {"10.0.0.0/8", "169.254.0.0/16"} <= set(public["except"])


def thresholds(overlay: Overlay) -> dict[str, float]:
    """Per metric, the average of a replica from which on more are asked for."""
    kinds = {manifest["kind"] for manifest in overlay.manifests}
    if "ScaledObject" in kinds:
        triggers: list[Any] = overlay.one("ScaledObject")["spec"]["triggers"]
        return {each["name"]: float(each["metadata"]["threshold"]) for each in triggers}
    metrics: list[Any] = overlay.one("HorizontalPodAutoscaler")["spec"]["metrics"]
    return {
        each["pods"]["metric"]["name"].removeprefix("dyvte_requests_"): float(
            each["pods"]["target"]["averageValue"]
        )
        for each in metrics
    }


def test_replicas_are_added_before_they_are_full(overlay: Overlay) -> None:
    at_once = int(overlay.settings["DYVTE_MAX_NUM_SEQS"])
    limits = thresholds(overlay)
    assert limits["running"] == 0.75 * at_once
    assert 0 < limits["waiting"] < int(overlay.settings["DYVTE_MAX_WAITING"])
    assert "replicas" not in overlay.one("Deployment")["spec"]


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_adapter_scales_by_the_same_measures(name: str, tmp_path: Path) -> None:
    adapted = with_the_adapter(name, tmp_path)
    assert "ScaledObject" not in {manifest["kind"] for manifest in adapted.manifests}
    assert thresholds(adapted) == thresholds(Overlay(KUBERNETES / name))


def test_a_budget_lets_the_only_replica_move(overlay: Overlay) -> None:
    budget = overlay.one("PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


@pytest.mark.parametrize(
    ("name", "surge", "devices"),
    [
        ("cpu", {"maxSurge": 1, "maxUnavailable": 0}, None),
        ("gpu", {"maxSurge": 0, "maxUnavailable": 1}, "1"),
    ],
)
def test_a_rollout_asks_for_no_gpu_that_is_not_there(
    name: str, surge: dict[str, int], devices: str | None
) -> None:
    overlay = Overlay(KUBERNETES / name)
    assert overlay.one("Deployment")["spec"]["strategy"]["rollingUpdate"] == surge
    assert overlay.server["resources"]["limits"].get("nvidia.com/gpu") == devices
    variant = "cpu" if devices is None else "cuda"
    assert overlay.server["image"] == f"dyvte:{dyvte.__version__}-{variant}"
    assert overlay.settings["DYVTE_DEVICE"] == variant
