"""``aura gateway``, ``aura scheduler``, ``aura projector``: one service each, until SIGTERM."""

from __future__ import annotations

import asyncio
import gc
import importlib
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aura.cli.options import data_option

if TYPE_CHECKING:
    from aura.cli.compose import Service, World

#: A service's objects live long (connections, rows, frames): the collector looks less often than for a script. With the defaults a
#: quarter of the gateway's time went there while ten thousand clients connected (measured: 890 → 590 µs a handshake).
GC_THRESHOLDS = (20_000, 50, 1_000)


@click.command()
@click.option("--host", help="Address to listen on (AURA_HOST).")
@click.option("--port", type=int, help="Port to listen on (AURA_PORT); 0 is any free one.")
@data_option
def gateway(host: str | None, port: int | None, data: Path | None) -> None:
    """Run the gateway: HTTP, WebSocket, and the command service over NATS."""
    _serve("gateway", {"host": host, "port": port, "data_dir": data})


@click.command()
@data_option
def scheduler(data: Path | None) -> None:
    """Run the scheduler. Several may run: one leads, the others stand by."""
    _serve("scheduler", {"data_dir": data})


@click.command()
@data_option
def projector(data: Path | None) -> None:
    """Run the projector: keeps the read models up to date. Several may run: one leads."""
    _serve("projector", {"data_dir": data})


def structlog_without_rich() -> None:
    """Import structlog so that it does not import rich (for tracebacks; 0.2–0.5 s and 10 MB of every service's start).

    Whoever needs rich afterwards can still import it.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the documented way to say "not there"
        try:
            importlib.import_module("structlog")
        finally:
            del sys.modules["rich"]


def _serve(component: str, flags: dict[str, Any]) -> None:
    gc.set_threshold(*GC_THRESHOLDS)
    gc.disable()  # nothing that an import makes is garbage; :func:`until_signal` turns it on
    structlog_without_rich()
    from aura import config
    from aura.cli import compose, processes
    from aura.cli.logs import configure_logging
    from aura.cli.loop import loop_factory

    settings = config.discover(config.load(flags), component)
    configure_logging(settings)
    makers: dict[str, Callable[[World], Service]] = {
        "gateway": processes.Gateway,
        "scheduler": processes.Scheduler,
        "projector": processes.Projector,
    }
    service = makers[component](compose.world(settings))
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(until_signal(service))


async def until_signal(service: Service) -> None:
    """Start, serve until SIGTERM, SIGINT or its own end, stop. Raises what ended it."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    waiting = asyncio.create_task(asked.wait())
    starting = asyncio.create_task(service.start())
    try:
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        gc.freeze()  # what was made so far stays: the collector need not look at it again
        gc.enable()
        if not starting.done():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return
        starting.result()
        ending = asyncio.create_task(service.wait())
        await asyncio.wait({ending, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if ending.done():
            ending.result()
        else:
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
    finally:
        waiting.cancel()
        await service.stop()
