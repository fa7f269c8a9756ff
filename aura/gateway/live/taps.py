"""Live output for watched jobs only: one subscription, one decryption and one set of frames per message, however many
watch.

A message's records become frames once (:func:`messages`); followers of the job get the same objects. ``/ws/events``
clients get the log lines of all jobs as notes, as long as there is such a client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any

import orjson

from aura.events import subjects
from aura.gateway.live.frames import Note
from aura.gateway.live.hub import Hub
from aura.gateway.live.job_feed import Message
from aura.gateway.ports import OutputMessage, OutputReader, Stop

_NOTHING = object()
#: What a follower gets for each message.
Follower = Callable[[Message["OutputFrame"]], None]


class OutputFrame:
    """One record of output, ready for every kind of client. ``cursor`` and ``i`` are where a client resumes."""

    __slots__ = ("cursor", "i", "note")

    def __init__(self, cursor: int, i: int, flat: dict[str, Any]) -> None:
        self.cursor = cursor
        self.i = i
        self.note = Note(orjson.dumps(flat))


#: What a record may say, by kind, and of which JSON type: nothing else that a worker writes is shown.
_SAYS: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "stream": {"i": (int,), "ts": (str,), "chunk": (str,), "final": (bool,)},
    "log": {"i": (int,), "ts": (str,), "level": (str,), "line": (str,)},
    "progress": {"i": (int,), "ts": (str,), "percent": (int, float), "step": (str, NoneType)},
}


def flat_record(job_id: str, project: int, message: OutputMessage, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as clients see it: flat JSON with ``type``, ids, ``attempt``, ``i`` and the ``cursor`` to resume
    from. Whose record it is comes from where it is stored, never from what it says."""
    says = _SAYS[message.kind]
    return {
        "type": f"job.{message.kind}",
        **{name: record[name] for name, kinds in says.items() if isinstance(record.get(name, _NOTHING), kinds)},
        "job_id": job_id,
        "project_id": project,
        "attempt": message.attempt,
        "cursor": message.seq,
    }


def shown(job_id: str, project: int, message: OutputMessage) -> Message[OutputFrame]:
    """A message with its frames built."""
    frames = [
        OutputFrame(message.seq, int(record["i"]), flat_record(job_id, project, message, record))
        for record in message.records
    ]
    first = frames[0].i if frames else 0
    return Message(message.seq, message.attempt, first, frames)


class _Tap:
    __slots__ = ("followers", "opened", "stop")

    def __init__(self) -> None:
        self.followers: dict[Follower, None] = {}
        self.opened: asyncio.Task[Stop] | None = None
        self.stop: Stop | None = None


class OutputTaps:
    """Reference-counted watches."""

    def __init__(self, output: OutputReader, hub: Hub) -> None:
        self._output = output
        self._hub = hub
        self._taps: dict[str, _Tap] = {}
        self._log_watchers = 0
        self._logs: asyncio.Task[Stop] | None = None

    async def follow(self, project: int, job_id: str, follower: Follower) -> Stop:
        """Give ``follower`` the job's new messages from now on. Raises ``Unavailable``."""
        tap = self._taps.get(job_id)
        if tap is None:
            tap = self._taps[job_id] = _Tap()
            tap.opened = asyncio.get_running_loop().create_task(self._output.watch(project, job_id, self._on_output))
        tap.followers[follower] = None
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
        assert tap.opened is not None
        await _close(tap.opened)

    def _on_output(self, job_id: str, project: int, message: OutputMessage) -> None:
        tap = self._taps.get(job_id)
        if tap is not None and message.records:
            built = shown(job_id, project, message)
            for follower in list(tap.followers):
                follower(built)

    async def follow_logs(self) -> Stop:
        """Somebody wants everybody's log lines."""
        self._log_watchers += 1
        if self._logs is None:
            self._logs = asyncio.get_running_loop().create_task(self._output.watch_logs(self._on_log))
        try:
            await asyncio.shield(self._logs)
        except BaseException:
            await self._unfollow_logs()
            raise
        return self._unfollow_logs

    async def _unfollow_logs(self) -> None:
        self._log_watchers -= 1
        if self._log_watchers == 0 and self._logs is not None:
            logs, self._logs = self._logs, None
            await _close(logs)

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
