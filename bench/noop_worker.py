"""``python -m bench.noop_worker LEDGER COUNT SLOTS``: one worker process whose handler does nothing but mark the ledger."""

from __future__ import annotations

import sys

from aura.worker import JobContext, run
from bench.peers.ledger import Ledger

MODEL = "employee_ollama"


def main() -> None:
    """Run until SIGTERM; the system is found through ``AURA_DATA_DIR``."""
    path, count, slots = sys.argv[1:]
    ledger = Ledger(path, int(count))

    async def handle(job: JobContext) -> None:
        ledger.started(job.payload["n"])

    run(handle, model=MODEL, slots=int(slots), worker_id="bench")


if __name__ == "__main__":
    main()
