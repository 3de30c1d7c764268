"""Which replica gets a request: Ray's consistent hashing by image, least loaded without one.

The key travels as the handle's ``session_id``. A replica that is full (``max_ongoing_requests``)
passes its requests on to the next on the ring, so that one popular image cannot block a fleet.
"""

from __future__ import annotations

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter
from ray.serve.request_router import PendingRequest, RunningReplica


class ImageAffinityRouter(ConsistentHashRouter):
    """Consistent hashing where there is a key; it would scatter requests without one."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of candidates; within a rank Ray takes the shortest queue."""
        if pending_request is None or pending_request.metadata.session_id:
            ranks: list[list[RunningReplica]] = await super().choose_replicas(
                candidate_replicas, pending_request
            )
            return ranks
        pending_request.routing_context.should_backoff = True
        return [candidate_replicas] if candidate_replicas else []
