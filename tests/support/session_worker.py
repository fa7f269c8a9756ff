"""A worker process whose workflow says what it does and then waits for a file to appear: ``session_worker.py NAME FILE``."""

import asyncio
import sys
from pathlib import Path

from aura.worker import JobContext, Worker


async def handle(job: JobContext) -> dict[str, object]:
    told = await job.session("started", workflow="waiting")
    session_id = told.get("session_id")
    for agent in ("first", "second"):
        await job.session("agent_started", agent=agent, session_id=session_id)
        await job.progress(50, "waiting", agent=agent, data={"attempt": job.attempt})
        while agent == "second" and not Path(sys.argv[2]).exists():
            await asyncio.sleep(0.05)  # another process makes the file
        await job.session("agent_completed", agent=agent, session_id=session_id, duration_ms=1, output={"by": agent})
    return {"attempt": job.attempt}


async def main() -> None:
    options = {"lease_ttl_s": 5, "grace_s": 0, "worker_id": sys.argv[1]}
    async with Worker("employee_ollama", handle, **options) as worker:
        await worker.run()


asyncio.run(main())
