"""Heartbeats for the hub: the gateway's ``HealthFeed`` port."""

from __future__ import annotations

from collections.abc import Callable

from aura.events import subjects
from aura.gateway.ports import Stop
from aura.log.connection import Connection
from aura.log.health import Heartbeat, follow_heartbeats


class Heartbeats:
    """Implements :class:`aura.gateway.ports.HealthFeed`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def watch(self, sink: Callable[[str, bytes], None]) -> Stop:
        def receive(heartbeat: Heartbeat) -> None:
            sink(subjects.health(heartbeat.model, heartbeat.worker_id), heartbeat.body)

        return (await follow_heartbeats(self._connection, receive)).unsubscribe
