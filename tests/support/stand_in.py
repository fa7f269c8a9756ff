"""What ``test_supervisor`` runs in place of ``python -m aura``: components that do nothing but live, be ready and drain.

``stand_in.py up DATA PORT`` is the supervisor itself, with this file as its command; ``stand_in.py gateway|scheduler|projector|worker …``
are its children. Each component appends its name to ``<data>/started`` when it is up and to ``<data>/drained`` when it is told to end; the
gateway is ready when the other services are up (``STAND_INS`` of them); workers come after it. A worker first starts a process in a
session of its own, which only the supervisor can find after the worker was killed. ``STAND_IN_BROKEN`` names a component that says why
and ends at once.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path


async def component(name: str) -> None:
    if name == os.environ.get("STAND_IN_BROKEN"):
        sys.exit(f"{name} cannot work: the reason")
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    if name == "gateway":
        await asyncio.start_server(_answer, os.environ["AURA_HOST"], int(os.environ["AURA_PORT"]))
    if name == "worker":
        await asyncio.create_subprocess_exec("sleep", "600", start_new_session=True)
    _note("started", name)
    await asked.wait()
    _note("drained", name)


def _note(file: str, name: str) -> None:
    with (Path(os.environ["AURA_DATA_DIR"]) / file).open("a") as notes:
        notes.write(name + "\n")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    started = (Path(os.environ["AURA_DATA_DIR"]) / "started").read_text().splitlines()
    status = "200 OK" if len(started) > int(os.environ["STAND_INS"]) else "503 Not Yet"
    writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    writer.close()


async def up(data: Path, port: int, workers: int) -> None:
    from aura import config
    from aura.runtime.children import WorkerSpec
    from aura.runtime.keeper import Notice
    from aura.runtime.supervisor import Supervisor

    def say(notice: Notice) -> None:
        sys.stdout.write(f"{notice.part} {notice.state} {notice.detail}\n")
        sys.stdout.flush()

    os.environ["STAND_INS"] = "2"
    settings = config.load({"data_dir": str(data), "port": port})
    specs = [WorkerSpec(f"w{number}", "employee_ollama") for number in range(workers)]
    supervisor = Supervisor(settings, workers=specs, notify=say, command=(sys.executable, __file__))
    await supervisor.run()


if __name__ == "__main__":
    if sys.argv[1] == "up":
        asyncio.run(up(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
    else:
        asyncio.run(component(sys.argv[1]))
