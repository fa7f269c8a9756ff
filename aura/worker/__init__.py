"""The worker SDK: an async function becomes a worker with leases, retries, streaming and cancellation.

::

    from aura.worker import JobContext, run

    async def handle(job: JobContext) -> dict:
        await job.stream(f"hello {job.payload['name']}\\n")
        return {"greeted": job.payload["name"]}

    run(handle, model="employee_ollama", slots=4)

Raise :class:`Retryable` or :class:`Fatal` to say what a failure means; any other exception counts as retryable.
"""

from aura.errors import Fatal, JobError, Retryable
from aura.worker.context import JobContext, Submitted
from aura.worker.worker import Worker, run

__all__ = ["Fatal", "JobContext", "JobError", "Retryable", "Submitted", "Worker", "run"]
