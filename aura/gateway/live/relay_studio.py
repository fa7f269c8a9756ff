"""Translates jobs' events and output for studio clients, once for all of them, while there is one.

Events come from the hub in order and are translated in order by one task, because a stage's event must look up its job's subject (kept for
the newest jobs, else read from the log). Messages go back through the hub as notes on ``studio.<project>``; a client's group has the
projects it may see. If the log does not answer for so long that :data:`MAX_WAITING` events pile up, clients are told ``reset`` (ask the
API again): never a silent hole (G11), and bounded (G12). So they are for an event that cannot be translated.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import orjson
import structlog

from aura.events import subjects
from aura.events.subjects import OutputKind
from aura.gateway.live.dialects import studio
from aura.gateway.live.fanout.frames import Frame, Note
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.live.taps import OutputTaps, flat_record
from aura.gateway.ports import OutputMessage, Stop
from aura.log.store import EventStore

log = structlog.get_logger("aura.gateway")

MAX_WAITING = 10_000
_MAX_SUBJECTS = 10_000
_ALL = "studio.all"
_KINDS: tuple[OutputKind, ...] = ("progress", "log")


def patterns_of(projects: frozenset[int] | None) -> tuple[str, ...]:
    """What a client's group follows. ``None``: all projects."""
    return ("studio.>",) if projects is None else (*(f"studio.{project}" for project in sorted(projects)), _ALL)


class StudioRelay:
    """See the module docstring."""

    def __init__(self, hub: Hub, taps: OutputTaps, store: EventStore) -> None:
        self._hub = hub
        self._taps = taps
        self._store = store
        self._clients = 0
        self._running: asyncio.Task[list[Stop]] | None = None
        self._waiting: asyncio.Queue[Frame] = asyncio.Queue()
        self._subjects: OrderedDict[str, str | None] = OrderedDict()

    async def follow(self) -> Stop:
        """There is one more client. Returns how to say that it left. Raises ``Unavailable``."""
        self._clients += 1
        if self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._open())
        try:
            await asyncio.shield(self._running)
        except BaseException:
            await self._unfollow()
            raise
        return self._unfollow

    async def _unfollow(self) -> None:
        self._clients -= 1
        running = self._running
        if self._clients or running is None:
            return
        self._running = None
        if not running.done():
            running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        if not running.cancelled() and running.exception() is None:
            for stop in running.result():
                await stop()

    async def _open(self) -> list[Stop]:
        self._waiting = asyncio.Queue()
        translating = asyncio.get_running_loop().create_task(self._translate_for_ever(self._waiting))
        unwatch = self._hub.watch(("aura.job.>",), self._on_frame)

        async def stop() -> None:
            unwatch()
            translating.cancel()
            await asyncio.gather(translating, return_exceptions=True)

        stops: list[Stop] = [stop]
        try:
            for kind in _KINDS:
                stops.append(await self._taps.follow_all(kind, self._on_record))
        except BaseException:
            for opened in stops:
                await opened()
            raise
        return stops

    def _on_frame(self, frame: Frame) -> None:
        self._waiting.put_nowait(frame)
        if self._waiting.qsize() > MAX_WAITING:
            while not self._waiting.empty():
                self._waiting.get_nowait()
            self._reset("too much happened at once: ask again", frame.seq)

    def _reset(self, reason: str, seq: int) -> None:
        payload = {"reason": reason, "epoch": self._hub.epoch, "seq": seq}
        self._hub.note(_ALL, Note(orjson.dumps({"type": "reset", "payload": payload}), b"reset"))

    def _on_record(self, job_id: str, project: int, message: OutputMessage) -> None:
        for record in message.records:
            told = studio.of_record(flat_record(job_id, project, message, record))
            if told is not None:
                self._hub.note(f"studio.{project}", Note(orjson.dumps(told)))

    async def _translate_for_ever(self, waiting: asyncio.Queue[Frame]) -> None:
        while True:
            frame = await waiting.get()
            try:
                await self._translate(frame)
            except Exception:  # the log does not answer, or nobody foresaw such an event: the next one may be well
                log.exception("studio.event_lost", seq=frame.seq)
                self._reset("an event could not be told: ask again", frame.seq)

    async def _translate(self, frame: Frame) -> None:
        flat: Any = orjson.loads(frame.text)
        project, job_id = int(frame.subject.split(".")[2]), frame.subject.split(".")[3]
        if flat.get("type") == "job.created":
            self._remember(job_id, flat.get("subject"))
        subject = flat.get("subject")
        if studio.needs_subject(flat):
            subject = await self._subject_of(project, job_id)
        for told in studio.of_event(flat, subject):
            self._hub.note(f"studio.{project}", Note(orjson.dumps(told)))

    def _remember(self, job_id: str, subject: object) -> None:
        self._subjects[job_id] = subject if isinstance(subject, str) else None
        if len(self._subjects) > _MAX_SUBJECTS:
            self._subjects.popitem(last=False)

    async def _subject_of(self, project: int, job_id: str) -> str | None:
        if job_id not in self._subjects:
            created = await self._store.last(subjects.job_event(project, job_id, "job.created"))
            if created is None:
                return None
            self._remember(job_id, created.decode().get("subject"))
        return self._subjects[job_id]
