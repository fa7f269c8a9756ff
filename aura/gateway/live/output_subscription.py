"""A subscription of ``aura.v1`` to the output of one job: ``aura.output.<project>.<job>.>``.

``from`` counts in the output's own sequence (``cursor`` of each record), never in the log's: frames carry no ``seq``, so that a client
cannot mix the two up. ``{"last": n}`` reads the job's output once to find the newest; ``subscribed`` says then where it begins. Records
come in the order of ``i`` per attempt, each once; the job's events are another subscription. Only a few of a connection's output
subscriptions read history at the same time, the others wait for their turn (G12).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aura.errors import InvalidRequest, NotFound
from aura.events import subjects
from aura.gateway.context import Gateway
from aura.gateway.live.dialects import native
from aura.gateway.live.dialects.job import JobRecords, LastRecords, Position
from aura.gateway.live.fanout.frames import native_messages
from aura.gateway.live.fanout.outlet import Outlet
from aura.gateway.live.follow_job import JobFollower
from aura.gateway.live.steps import Steps
from aura.gateway.live.times import nanoseconds
from aura.gateway.live.visibility import Visibility


async def follow_output(
    gateway: Gateway, outlet: Outlet, steps: Steps, visible: Visibility, op: native.Subscribe
) -> Callable[[], Awaitable[None]]:
    """Check and say ``subscribed`` (or ``reset``); returns the following. Raises ``InvalidRequest``, ``NotFound``, ``Unavailable``."""
    project, job_id = _one_job(op.subject)
    head = await gateway.ctx.commands.jobs.head(job_id)
    if not visible.output(head.project, job_id):
        visible.refused(op.subject)
        raise NotFound("job", job_id)
    if head.project != project:
        raise NotFound("job", job_id)
    if isinstance(op.from_, native.From) and op.from_.last:
        limits = gateway.limits
        last = LastRecords(
            op.id, op.from_.last, epoch=gateway.hub.epoch, records=limits.last_records, bytes=limits.outbound_bytes
        )
        return JobFollower(gateway, outlet, project, job_id, last, steps=steps).run
    after, reason = await _begins(gateway, op.from_)
    outlet.write(native_messages([native.subscribed(op.id, after, reason is None)]))
    if reason is not None:
        gateway.ctx.metrics.resets.inc()
        outlet.write(native_messages([native.reset(op.id, gateway.hub.epoch, reason, after)]))
    since_time = op.from_.time if isinstance(op.from_, native.From) else None
    telling = JobRecords(op.id, after=after, since_time=since_time)
    start = Position(cursor=after + 1 if after else 0)
    return JobFollower(gateway, outlet, project, job_id, telling, start, steps=steps).run


async def _begins(gateway: Gateway, origin: native.Origin) -> tuple[int, str | None]:
    """After which message of output, and why that is not what was asked for. Raises ``InvalidRequest``, ``Unavailable``."""
    if origin == "now" or origin.last is not None:
        return await gateway.ctx.output.last_seq(), None
    if origin.time is not None:
        nanoseconds(origin.time)
        return 0, None
    cursor = origin.seq or 0
    if origin.epoch not in (None, gateway.hub.epoch) or cursor > await gateway.ctx.output.last_seq() + 1:
        return 0, "the cursor is not one of this output"
    return max(cursor - 1, 0), None


def _one_job(subject: str) -> tuple[int, str]:
    match subject.split("."):
        case ["aura", "output", project, job_id, ">"] if project.isdigit() and len(project) <= 10:
            return subjects.check_project(int(project)), subjects.check_job_id(job_id)
        case _:
            raise InvalidRequest("output is followed job by job: aura.output.<project>.<job>.>", field="subject")
