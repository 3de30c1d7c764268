"""The application: settings of the server and the size of the fleet → what Ray Serve deploys.

``build`` is the import path of a Serve config (serve.yaml); ``application`` is the same for
Python. Settings are read where the application is built and travel to the replicas as values.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from starlette.types import ASGIApp

from deploy.ray.fleet import RayFleet
from deploy.ray.ingress import ingress
from deploy.ray.replica import Replica
from server.settings import Settings

MODEL = "model"
ROUTER = "deploy.ray.routing:ImageAffinityRouter"
# Ray counts who is inside; a replica's own line stays empty, so that another one can take over.
KILL_AFTER_DRAIN_S = 10.0
INGRESS_REQUESTS = 10_000


class FleetOptions(BaseModel):
    """How many replicas, and what each is given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_ongoing_requests: float = Field(default=16, gt=0, description="per replica")
    ingress_replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=1, ge=0, description="CPU cores per replica; its OpenMP threads")
    gpus: float = Field(default=0, ge=0, description="GPUs per replica")
    monitor_port: int = Field(
        default=0, ge=0, le=65535, description="port of each replica's /metrics (0: any free one)"
    )

    @model_validator(mode="after")
    def _range_is_a_range(self) -> FleetOptions:
        if self.min_replicas > self.max_replicas:
            raise ValueError("max_replicas must be at least min_replicas")
        return self


class DeployOptions(FleetOptions):
    """The ``args`` of a Serve config: a fleet, and the flags of ``dyvte serve`` as keys."""

    server: dict[str, Any] = Field(default_factory=dict)


def build(args: dict[str, Any]) -> Application:
    """Called by Serve with the config's ``args``. Raises ValidationError."""
    options = DeployOptions.model_validate(args)
    return application(Settings(**options.server), options)


def application(settings: Settings, fleet: FleetOptions) -> Application:
    """An ingress in front of the replicas."""
    model = serve.deployment(
        Replica,
        name=MODEL,
        **_size(fleet),
        max_ongoing_requests=settings.max_num_seqs,
        max_queued_requests=settings.max_waiting,
        graceful_shutdown_timeout_s=settings.drain_timeout + KILL_AFTER_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=5,
        ray_actor_options={"num_cpus": fleet.cpus, "num_gpus": fleet.gpus},
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
    )

    def front() -> ASGIApp:
        return ingress(settings, RayFleet(serve.get_deployment_handle(MODEL)))

    door = serve.deployment(
        serve.ingress(front)(),
        name="ingress",
        num_replicas=fleet.ingress_replicas,
        max_ongoing_requests=INGRESS_REQUESTS,
        graceful_shutdown_timeout_s=settings.drain_timeout + KILL_AFTER_DRAIN_S,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": 0},
    )
    return door.bind(model.bind(settings, fleet.monitor_port))


def _size(fleet: FleetOptions) -> dict[str, Any]:
    """A fixed number of replicas, or one that follows the requests inside."""
    if fleet.min_replicas == fleet.max_replicas:
        return {"num_replicas": fleet.max_replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=fleet.min_replicas,
            max_replicas=fleet.max_replicas,
            target_ongoing_requests=fleet.target_ongoing_requests,
        )
    }
