"""Each Kubernetes overlay in turn."""

from __future__ import annotations

import pytest

from tests.deploy.overlays import KUBERNETES, Overlay


@pytest.fixture(params=["cpu", "gpu"])
def overlay(request: pytest.FixtureRequest) -> Overlay:
    """As a cluster would get it; skips the test where there is no kustomize."""
    return Overlay(KUBERNETES / request.param)
