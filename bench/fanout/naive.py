"""``python -m bench.fanout.naive``: the hub that everybody writes first, as a baseline.

A set of sockets behind a lock; for each event the text is made per client and all sends are gathered. Starlette and uvicorn as they
come. Prints its port; when ``--clients`` are connected it broadcasts for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import socket
import time

import uvicorn
import uvloop
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from bench.fanout.tools import SIZE, raise_file_limit


class Hub:
    """The clients."""

    def __init__(self, enough: int) -> None:
        self.clients: set[WebSocket] = set()
        self.full = asyncio.Event()
        self._enough = enough
        self._lock = asyncio.Lock()

    async def connect(self, socket: WebSocket) -> None:
        """One client until it leaves."""
        await socket.accept()
        async with self._lock:
            self.clients.add(socket)
            if len(self.clients) == self._enough:
                self.full.set()
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await socket.receive_text()
        async with self._lock:
            self.clients.discard(socket)

    async def broadcast(self, event: dict[str, object]) -> None:
        """To everybody."""
        async with self._lock:
            await asyncio.gather(
                *(client.send_text(json.dumps(event)) for client in self.clients), return_exceptions=True
            )


async def run(clients: int) -> None:
    """Serve until killed."""
    hub = Hub(clients)
    listener = socket.create_server(("127.0.0.1", 0))
    app = Starlette(routes=[WebSocketRoute("/{path:path}", hub.connect)])
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off", backlog=4096))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    print(listener.getsockname()[1], flush=True)
    await hub.full.wait()
    for number in itertools.count(1):
        event: dict[str, object] = {"seq": number, "type": "job.progress", "t": time.monotonic_ns(), "pad": ""}
        event["pad"] = "x" * (SIZE - len(json.dumps(event)))
        await hub.broadcast(event)
        await asyncio.sleep(0)
        if serving.done():
            return


def main() -> None:
    """See the module docstring."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, required=True)
    raise_file_limit()
    uvloop.run(run(parser.parse_args().clients))


if __name__ == "__main__":
    main()
