"""The smallest worker. Start `aura up`, then: python examples/hello_worker.py; then: aura submit examples/hello_prd.json --watch"""

import asyncio

from aura.worker import JobContext, run


async def handle(job: JobContext) -> dict:
    name = job.payload.get("name", "world")
    for number, letter in enumerate(f"Hello, {name}!\n"):
        await job.stream(letter)
        await job.progress(100 * number / len(name), "greeting")
        await asyncio.sleep(0.05)
    return {"greeted": name}


run(handle, model="greeter", roles=["Greeter"], slots=4)
