"""A publisher that appends to the log at a steady rate and writes into a shared file when each event was acknowledged.

As Aura's own group commit does: what is due while :data:`IN_FLIGHT` writes are under way goes out as one atomic batch, which costs the
server a few flushes instead of one per event. When the disk is slow batches grow; the rate stays.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import time
from collections import deque
from pathlib import Path

from bench.parts import CLOCK, IDS
from bench.raw import RawClient

#: Sequences that the file has room for.
ROOM = 1_000_000
#: Writes under way at once, and most events of one.
IN_FLIGHT, MOST = 4, 500


class Paced:
    """``rate`` events of ``size`` bytes a second. The file ``acks`` holds nanoseconds of the monotonic clock by sequence, 0 where nothing
    was acknowledged; the load client maps it too."""

    def __init__(self, client: RawClient, acks: Path, rate: int, size: int) -> None:
        self._client = client
        self._rate, self._size = rate, size
        with acks.open("w+b") as file:
            file.truncate(ROOM * 8)
            self._map = mmap.mmap(file.fileno(), ROOM * 8)
        self._at = memoryview(self._map).cast("Q")
        self._inbox = f"{client.inbox}.paced"
        client.subscribe(self._inbox, self._on_ack)
        self._sent_at: deque[int] = deque()
        self.sent = 0
        self.acked = 0
        self.took_ns: list[int] = []
        """From sent to acknowledged, of each write."""
        self.refused: bytes = b""
        self._in_flight = 0
        self._free = asyncio.Event()

    def _on_ack(self, _subject: bytes, _headers: bytes, body: bytes) -> None:
        now = time.monotonic_ns()
        if not body:
            return
        answer = json.loads(body)
        if "error" in answer:
            self.refused = body
            return
        self.took_ns.append(now - self._sent_at.popleft())
        self._in_flight -= 1
        self._free.set()
        count = int(answer.get("count", 1))
        for seq in range(answer["seq"] - count + 1, answer["seq"] + 1):
            self._at[seq] = now
        self.acked += count

    async def run(self) -> None:
        """Publish until cancelled. Raises ``RuntimeError`` when the log refuses."""
        job = IDS.uuid7()
        subject = f"append.aura.job.1.{job}.progress"
        began = time.monotonic()
        while True:
            due = min(int((time.monotonic() - began) * self._rate) + 1 - self.sent, MOST)
            if due <= 0:
                await asyncio.sleep(began + self.sent / self._rate - time.monotonic())
            elif self._in_flight == IN_FLIGHT:
                self._free.clear()
                await self._free.wait()
            else:
                self._in_flight += 1
                self._sent_at.append(time.monotonic_ns())
                self._client.send(self._command(subject, job, due))
                self.sent += due
            if self.refused:
                raise RuntimeError(f"the log refused: {self.refused!r}")

    def _command(self, subject: str, job: str, count: int) -> bytes:
        batch = IDS.uuid7() if count > 1 else ""
        parts = []
        text = f'{{"id":"{IDS.uuid7()}","type":"job.progress","ts":"{CLOCK.now().isoformat()}","job_id":"{job}","pad":"'
        body = (
            f'{text}{"x" * max(0, self._size - len(text) - 14)}"}}'  # no id twice matters here, and making one costs us
        )
        for number in range(1, count + 1):
            last = number == count
            reply = self._inbox if last else ""
            head = "NATS/1.0\r\n"
            if batch:
                head += f"Nats-Batch-Id: {batch}\r\nNats-Batch-Sequence: {number}\r\n"
                head += "Nats-Batch-Commit: 1\r\n" if last else ""
            head += "\r\n"
            parts.append(f"HPUB {subject} {reply} {len(head)} {len(head) + len(body)}\r\n{head}{body}\r\n")
        return "".join(parts).encode()
