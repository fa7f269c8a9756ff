"""Private ports on loopback: the ones used last time when they are still free, else any free one."""

from __future__ import annotations

import asyncio
import contextlib
import socket


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def choose(count: int, preferred: list[int | None]) -> list[int]:
    """``count`` different ports, each the preferred one if that is free. Another process may still be faster: try again then."""
    chosen: list[int] = []
    with contextlib.ExitStack() as held:
        for index in range(count):
            wanted = preferred[index] if index < len(preferred) else None
            if wanted and wanted not in chosen and is_free(wanted):
                chosen.append(wanted)
                continue
            probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            probe.bind(("127.0.0.1", 0))
            chosen.append(probe.getsockname()[1])
    return chosen


async def http_status(host: str, port: int, path: str, timeout_s: float = 2.0) -> int | None:
    """The status of a plain ``GET``, ``None`` when there is no answer in time. The body is not read."""
    writer = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
            line = await reader.readline()
        return int(line.split()[1])
    except (OSError, TimeoutError, ValueError, IndexError):
        return None
    finally:
        if writer is not None:
            writer.close()
