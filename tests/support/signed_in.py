"""Clients of a server with permissions: signed in as one of its users, noting what the server refuses them."""

from __future__ import annotations

from nats.aio.client import Client

from tests.support.servers import NatsServer

JOB = "01989c00-0000-7000-8000-000000000001"
WORKER = "w1"


class Tried:
    """A client that notes what the server refused it."""

    def __init__(self, client: Client, refused: list[str]) -> None:
        self.client = client
        self._refused = refused

    async def publish(self, subject: str, reply: str = "", body: bytes = b"") -> bool:
        """Whether the server took it."""
        self._refused.clear()
        await self.client.publish(subject, body, reply=reply)
        await self._settled()
        return not self._refused

    async def _settled(self) -> None:
        """A refusal precedes the answer to a ping; twice, because nats-py's ping may overtake what it has buffered."""
        await self.client.flush()
        await self.client.flush()

    async def subscribe(self, subject: str) -> bool:
        self._refused.clear()
        subscription = await self.client.subscribe(subject)
        await self._settled()
        if allowed := not self._refused:
            await subscription.unsubscribe()
        return allowed


async def sign_in(server: NatsServer, user: str) -> Tried:
    refused: list[str] = []

    async def note(error: Exception) -> None:
        assert "permissions violation" in str(error).lower(), error
        refused.append(str(error))

    creds = server.worker(WORKER, ["m"]) if user == "worker" else server.creds(user)
    return Tried(await server.connect(creds, error_cb=note), refused)


async def log_length(server: NatsServer) -> int:
    info = await (await server.connect("root")).jetstream().stream_info("AURA_LOG")
    return int(info.state.messages)
