"""nats-server's own WebSocket listener as a baseline: clients subscribe to one subject, a publisher over TCP sends bursts to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aura.runtime.embedded_nats import binary
from aura.runtime.ports import choose
from bench import raw, servers
from bench.fanout import tools

SUBJECT = "fan.out"


@asynccontextmanager
async def running(folder: Path, clients: int, burst: int) -> AsyncIterator[tools.Server]:
    """A server on the server's core. Publishing begins when ``clients`` are subscribed."""
    port, websocket = choose(2, [])
    config = folder / "nats-ws.conf"
    listener = f'websocket {{ host: "127.0.0.1", port: {websocket}, no_tls: true, compression: false }}\n'
    config.write_text(f'listen: "127.0.0.1:{port}"\n{listener}', "ascii")
    process = await tools.spawn([binary(), "--config", config], folder / "fanout-server.log", tools.cores()[0])
    try:
        await servers.wait_for_port(websocket)
        client = await raw.connect(f"nats://127.0.0.1:{port}")
        publishing = asyncio.create_task(_publish(client, clients, burst))
        try:
            yield tools.Server(websocket, process.pid, process)
        finally:
            publishing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await publishing
            client.close()
    finally:
        await process.end()


async def _publish(client: raw.RawClient, clients: int, burst: int) -> None:
    """A burst in one write, then a PING: its PONG comes when the server has handed out the burst."""
    here, full = itertools.count(1), asyncio.Event()

    def counted(_subject: bytes, _headers: bytes, _body: bytes) -> None:
        if next(here) == clients:
            full.set()

    client.subscribe("fan.here", counted)
    await full.wait()
    for number in itertools.count():
        bodies = []
        for one in range(burst):
            text = f'{{"seq":{number * burst + one},"type":"job.progress","pad":"'
            body = f'{text}{"x" * (tools.SIZE - len(text) - 2)}"}}'
            bodies.append(f"PUB {SUBJECT} {len(body)}\r\n{body}\r\n")
        client.send("".join(bodies).encode())
        await client.flush()
