"""The replicas as the ingress sees them: a handle of Ray's, with its errors in HTTP's words."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.types import Message, Scope

from deploy.ray.ingress import ReplicaGone
from server.api.errors import queue_full, unavailable

DEAD = (RayActorError, NodeDiedError, WorkerCrashedError, ObjectLostError)
TARGETS_WITHIN_S = 5.0
RETRY_AFTER_S = 1.0


class RayFleet:
    """Answers through a deployment of ``Replica``; the key is what its router goes by."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    @asynccontextmanager
    async def answer(
        self, scope: Scope, body: bytes, key: str
    ) -> AsyncGenerator[AsyncIterator[list[Message]], None]:
        """One request; leaving early cancels it at the replica."""
        response = self._streaming.options(session_id=key).answer.remote(scope, body)
        ended = False

        async def messages() -> AsyncGenerator[list[Message], None]:
            nonlocal ended
            async for batch in _told(response):
                yield batch
            ended = True

        try:
            yield messages()
        finally:
            if not ended:
                response.cancel()

    async def targets(self) -> list[Mapping[str, Any]]:
        """What every replica says of itself; one that does not answer is left out."""
        try:
            answers = await self._handle.broadcast("target").results_async(
                timeout_s=TARGETS_WITHIN_S, return_exceptions=True
            )
        except DeploymentUnavailableError:
            return []
        return [answer for answer in answers if isinstance(answer, Mapping)]


async def _told(response: DeploymentResponseGenerator) -> AsyncIterator[list[Message]]:
    """The batches. Raises ReplicaGone or ApiError where Ray raises its own."""
    try:
        async for batch in response:
            yield batch
    except DEAD as error:
        raise ReplicaGone(type(error).__name__) from error
    except BackPressureError as error:
        raise queue_full(RETRY_AFTER_S) from error
    except DeploymentUnavailableError as error:
        raise unavailable("No replica can be started.", "no_replica") from error
