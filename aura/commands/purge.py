"""Purge: erase a closed job's content for good and leave a tombstone.

::

    purge_requested (event) ─→ erase key, content, output ─→ purged {bytes, stores} (event) ─→ {"ok": true}

Crash anywhere: the request stands in the log, erasing is safe to repeat, and :meth:`Purger.resume` (run at start by whoever leads)
finishes every job that was requested but not purged. ``{"ok": true}`` is never said before ``purged`` is committed. Between the
two events nothing can retry the job (``domain/job.py``), so nothing writes new content behind the eraser.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator

from aura.commands.handler import Caller, JobHandler, Outcome
from aura.domain import job_commands as c
from aura.domain.job_state import Purge
from aura.log.ports import ContentStore


class Purger:
    """Carries purges through."""

    def __init__(self, handler: JobHandler, content: ContentStore) -> None:
        self._handler = handler
        self._content = content

    async def purge(self, job_id: str, by: str, reason: str, caller: Caller) -> Outcome:
        """Request and carry out. Raises ``NotFound``, ``Forbidden`` (retention), ``Conflict`` (held, not closed), ``Unavailable``."""
        scope = "sha256:" + hashlib.sha256(f"content,output:{job_id}".encode()).hexdigest()
        await self._handler.execute(job_id, c.RequestPurge(by=by, scope_digest=scope, reason=reason), caller)
        return await self._carry_out(job_id, by, reason, caller)

    async def resume(self, requested: AsyncIterator[str], caller: Caller) -> int:
        """Finish purges that a crash interrupted; ``requested`` are ids whose state may say so. Returns how many were finished."""
        finished = 0
        async for job_id in requested:
            head = await self._handler.head(job_id, consistent=True)
            if head.state.purge is Purge.REQUESTED:
                await self._carry_out(job_id, caller.actor, "resumed after a restart", caller)
                finished += 1
        return finished

    async def _carry_out(self, job_id: str, by: str, reason: str, caller: Caller) -> Outcome:
        head = await self._handler.head(job_id)
        if head.state.purge is Purge.PURGED:
            return Outcome(head, head.seq, None)
        erased = await self._content.erase(head.project, job_id)
        tombstone = c.RecordPurge(by=by, bytes=erased.bytes, stores=erased.stores, reason=reason)
        return await self._handler.execute(job_id, tombstone, caller)
