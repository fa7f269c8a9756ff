"""A worker process for the chaos tests: streams a few chunks that say who they are, then completes."""

import asyncio
import sys

from aura.worker import JobContext, Worker


async def handle(job: JobContext) -> dict[str, object]:
    for number in range(5):
        await job.stream(f"{job.payload['prd']}/{job.payload['task']}/{number}\n")
        await asyncio.sleep(0.01)  # the work
    return {"done": True}


async def main() -> None:
    async with Worker(model="employee_ollama", slots=8, handler=handle, worker_id=sys.argv[1]) as worker:
        await worker.run()


asyncio.run(main())
