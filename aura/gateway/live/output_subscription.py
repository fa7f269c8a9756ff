"""A subscription of ``aura.v1`` to the output of one job: ``aura.output.<project>.<job>.>``.

``from`` counts in the output's own sequence (``cursor`` of each record), never in the log's: frames carry no ``seq``, so that a client
cannot mix the two up. ``"now"`` and ``{"last": n}`` read the job's output once to find its end. Records come in the order of ``i`` per
attempt, each once; the job's events are another subscription.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aura.errors import InvalidRequest, NotFound
from aura.events import subjects
from aura.gateway.context import Gateway
from aura.gateway.live.dialects import native
from aura.gateway.live.dialects.job import JobRecords, Position
from aura.gateway.live.follow_job import JobFollower
from aura.gateway.live.frames import native_messages
from aura.gateway.live.outlet import Outlet
from aura.gateway.live.times import nanoseconds
from aura.gateway.live.visibility import Visibility


async def follow_output(
    gateway: Gateway, outlet: Outlet, visible: Visibility, op: native.Subscribe
) -> Callable[[], Awaitable[None]]:
    """Check and say ``subscribed`` (or ``reset``); returns the following. Raises ``InvalidRequest``, ``NotFound``, ``Unavailable``."""
    project, job_id = _one_job(op.subject)
    head = await gateway.ctx.commands.jobs.head(job_id)
    if head.project != project or not visible.output(project, job_id):
        raise NotFound("job", job_id)
    origin = native.From(last=0) if op.from_ == "now" else op.from_
    assert isinstance(origin, native.From)
    if origin.time is not None:
        nanoseconds(origin.time)
    cursor, recovered = origin.seq or 0, True
    if origin.seq is not None:
        recovered = origin.epoch in (None, gateway.hub.epoch) and cursor <= await gateway.ctx.output.last_seq() + 1
    start = Position(cursor=cursor if recovered else 0)
    outlet.write(native_messages([native.subscribed(op.id, max(start.cursor - 1, 0), recovered)]))
    if not recovered:
        gateway.ctx.metrics.resets.inc()
        reason = "the cursor is not one of this output"
        outlet.write(native_messages([native.reset(op.id, gateway.hub.epoch, reason, 0)]))
    telling = JobRecords(op.id, last=origin.last, since_time=origin.time)
    return JobFollower(gateway, outlet, project, job_id, telling, start).run


def _one_job(subject: str) -> tuple[int, str]:
    match subject.split("."):
        case ["aura", "output", project, job_id, ">"] if project.isdigit() and len(project) <= 10:
            return subjects.check_project(int(project)), subjects.check_job_id(job_id)
        case _:
            raise InvalidRequest("output is followed job by job: aura.output.<project>.<job>.>", field="subject")
