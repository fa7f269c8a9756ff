"""Live output for watched jobs only: one subscription, one decryption and one set of frames per message, however many
watch.

A message's records become frames once (:func:`shown`); followers of the job get the same objects. ``/ws/events``
clients get the log lines of all jobs as notes, as long as there is such a client.

What is pushed may be lost. A follower notices that by ``i`` when more comes; that the *last* message of a watched job was lost shows only
by comparing with what is stored (G11). This is done each second for jobs from which nothing came meanwhile, and only when any output at
all was stored since: one request a second, and at most :data:`COMPARED_AT_ONCE` more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import NoneType
from typing import Any

import orjson
import structlog

from aura.errors import AuraError
from aura.events import subjects
from aura.events.subjects import OutputKind
from aura.gateway.live.fanout.frames import Note
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.live.job_feed import Message
from aura.gateway.ports import OutputMessage, OutputReader, OutputSink, Stop

log = structlog.get_logger("aura.gateway")

_NOTHING = object()
#: What a follower gets for each message.
Follower = Callable[[Message["OutputFrame"]], None]
#: Tells a follower that more is stored than was pushed.
Missed = Callable[[], None]
#: How often watched jobs are compared with what is stored, and how many of them at a time.
COMPARE_S = 1.0
COMPARED_AT_ONCE = 50


class OutputFrame:
    """One record of output, ready for every kind of client. ``cursor`` and ``i`` are where a client resumes."""

    __slots__ = ("cursor", "i", "note", "subject", "ts")

    def __init__(self, cursor: int, i: int, ts: str, subject: str, text: bytes) -> None:
        self.cursor = cursor
        self.i = i
        self.ts = ts
        self.subject = subject
        self.note = Note(text)


#: What a record may say, by kind, and of which JSON type: nothing else that a worker writes is shown.
Says = Mapping[str, tuple[type, ...]]
_SAYS: Mapping[str, Says] = {
    "stream": {"i": (int,), "ts": (str,), "chunk": (str,), "final": (bool,)},
    "log": {"i": (int,), "ts": (str,), "level": (str,), "line": (str,)},
    "progress": {
        "i": (int,),
        "ts": (str,),
        "percent": (int, float),
        "step": (str, NoneType),
        "agent": (str,),
        "data": (dict,),
    },
}


def flat_record(job_id: str, project: int, message: OutputMessage, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as clients see it: flat JSON with ``type``, ids, ``attempt``, ``i`` and the ``cursor`` to resume
    from. Whose record it is comes from where it is stored, never from what it says."""
    return {
        "type": f"job.{message.kind}",
        **_said(_SAYS[message.kind], record),
        "job_id": job_id,
        "project_id": project,
        "attempt": message.attempt,
        "cursor": message.seq,
    }


def _said(says: Says, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """What of a record may be shown: mostly the record itself."""
    for name, value in record.items():
        if not isinstance(value, says.get(name, ())):
            return {name: record[name] for name, kinds in says.items() if isinstance(record.get(name, _NOTHING), kinds)}
    return record


class _Envelope:
    """What the records of one kind and attempt have in common as clients see them. :meth:`text` is :func:`flat_record` as JSON, without
    writing the same ids anew for each record."""

    __slots__ = ("_head", "_says", "_tail", "subject")

    def __init__(self, job_id: str, project: int, attempt: int, kind: OutputKind) -> None:
        self.subject = subjects.output(project, job_id, attempt, kind)
        self._says = _SAYS[kind]
        self._head = orjson.dumps({"type": f"job.{kind}"})[:-1]
        whose = orjson.dumps({"job_id": job_id, "project_id": project, "attempt": attempt})
        self._tail = b',%b,"cursor":' % whose[1:-1]

    def text(self, cursor: int, record: Mapping[str, Any]) -> bytes:
        """One line of JSON."""
        said = orjson.dumps(_said(self._says, record))[1:-1]
        return b"%b%b%b%b%d}" % (self._head, b"," if said else b"", said, self._tail, cursor)


_envelope = lru_cache(maxsize=4096)(_Envelope)


def shown(job_id: str, project: int, message: OutputMessage) -> Message[OutputFrame]:
    """A message with its frames built."""
    cursor, records = message.seq, message.records
    envelope = _envelope(job_id, project, message.attempt, message.kind)
    frames = [
        OutputFrame(cursor, int(record["i"]), _text(record.get("ts")), envelope.subject, envelope.text(cursor, record))
        for record in records
    ]
    return Message(cursor, message.attempt, frames[0].i if frames else 0, frames)


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class _Tap:
    __slots__ = ("compared_at", "followers", "heard", "newest", "opened", "project")

    def __init__(self, project: int) -> None:
        self.project = project
        self.followers: dict[Follower, Missed] = {}
        self.opened: asyncio.Task[Stop] | None = None
        self.newest = 0
        """The newest cursor that its followers know of."""
        self.heard = False
        """Whether anything came since the last comparison."""
        self.compared_at = -1
        """The end of all output when it was last compared."""


class _Everybody:
    """The records of one kind of all jobs, while somebody wants them."""

    __slots__ = ("opened", "sinks")

    def __init__(self) -> None:
        self.sinks: dict[OutputSink, int] = {}
        self.opened: asyncio.Task[Stop] | None = None


class OutputTaps:
    """Reference-counted watches."""

    def __init__(self, output: OutputReader, hub: Hub) -> None:
        self._output = output
        self._hub = hub
        self._taps: dict[str, _Tap] = {}
        self._everybody: dict[OutputKind, _Everybody] = {}
        self._comparing: asyncio.Task[None] | None = None

    async def follow(self, project: int, job_id: str, follower: Follower, missed: Missed) -> Stop:
        """Give ``follower`` the job's new messages from now on, and call ``missed`` when some did not come and no newer one shows it.
        Raises ``Unavailable``."""
        tap = self._taps.get(job_id)
        if tap is None:
            tap = self._taps[job_id] = _Tap(project)
            tap.opened = asyncio.get_running_loop().create_task(self._output.watch(project, job_id, self._on_output))
        tap.followers[follower] = missed
        if self._comparing is None:
            self._comparing = asyncio.get_running_loop().create_task(self._compare_for_ever())
        assert tap.opened is not None
        try:
            await asyncio.shield(tap.opened)
        except BaseException:
            await self._unfollow(job_id, tap, follower)
            raise

        async def stop() -> None:
            await self._unfollow(job_id, tap, follower)

        return stop

    async def _unfollow(self, job_id: str, tap: _Tap, follower: Follower) -> None:
        tap.followers.pop(follower, None)
        if tap.followers or self._taps.get(job_id) is not tap:
            return
        del self._taps[job_id]
        if not self._taps and self._comparing is not None:
            self._comparing.cancel()
            self._comparing = None
        assert tap.opened is not None
        await _close(tap.opened)

    async def _compare_for_ever(self) -> None:
        while True:
            await asyncio.sleep(COMPARE_S)
            try:
                await self._compare()
            except AuraError as error:
                log.warning("output.not_compared", error=error.detail)

    async def _compare(self) -> None:
        """Look where the output of quiet jobs ends, those first that were not compared for longest."""
        end = await self._output.last_seq()
        due: list[tuple[str, _Tap]] = []
        for job_id, tap in self._taps.items():
            if not tap.heard and tap.compared_at != end:
                due.append((job_id, tap))
            tap.heard = False
        due.sort(key=lambda one: one[1].compared_at)
        for job_id, tap in due[:COMPARED_AT_ONCE]:
            newest = await self._output.newest(tap.project, job_id)
            tap.compared_at = end
            if newest > tap.newest:
                tap.newest = newest
                for missed in list(tap.followers.values()):
                    missed()

    def _on_output(self, job_id: str, project: int, message: OutputMessage) -> None:
        tap = self._taps.get(job_id)
        if tap is not None and message.records:
            tap.heard = True
            if message.seq > tap.newest:
                tap.newest = message.seq
            built = shown(job_id, project, message)
            for follower in list(tap.followers):
                try:
                    follower(built)
                except Exception:  # the others' output must go on
                    log.exception("output.follower_failed", job_id=job_id, cursor=message.seq)

    async def follow_all(self, kind: OutputKind, sink: OutputSink) -> Stop:
        """Somebody wants everybody's records of a kind. ``sink`` gets whole messages."""
        found = self._everybody.get(kind)
        if found is None:
            found = self._everybody[kind] = _Everybody()
            found.opened = asyncio.get_running_loop().create_task(
                self._output.watch_all(kind, lambda *message: self._on_any(found, *message))
            )
        found.sinks[sink] = found.sinks.get(sink, 0) + 1
        assert found.opened is not None
        try:
            await asyncio.shield(found.opened)
        except BaseException:
            await self._unfollow_all(kind, found, sink)
            raise
        return lambda: self._unfollow_all(kind, found, sink)

    async def _unfollow_all(self, kind: OutputKind, found: _Everybody, sink: OutputSink) -> None:
        found.sinks[sink] -= 1
        if not found.sinks[sink]:
            del found.sinks[sink]
        if not found.sinks and self._everybody.get(kind) is found:
            del self._everybody[kind]
            assert found.opened is not None
            await _close(found.opened)

    def _on_any(self, found: _Everybody, job_id: str, project: int, message: OutputMessage) -> None:
        for sink in list(found.sinks):
            try:
                sink(job_id, project, message)
            except Exception:  # a record that nobody foresaw; live only, so there is nothing to make up for
                log.exception("output.sink_failed", job_id=job_id, cursor=message.seq)

    async def follow_logs(self) -> Stop:
        """Somebody wants everybody's log lines, as notes of the hub."""
        return await self.follow_all("log", self._on_log)

    def _on_log(self, job_id: str, project: int, message: OutputMessage) -> None:
        subject = subjects.output(project, job_id, message.attempt, message.kind)
        for record in message.records:
            flat = flat_record(job_id, project, message, record)
            self._hub.note(subject, Note(orjson.dumps(flat)))


async def _close(opening: asyncio.Task[Stop]) -> None:
    """Undo an opening, finished or not."""
    if not opening.done():
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
    if not opening.cancelled() and opening.exception() is None:
        await opening.result()()
