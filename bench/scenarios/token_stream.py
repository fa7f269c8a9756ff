"""Tokens from worker to browser: 100 jobs stream 200 chunks a second each, every job is watched by 2 clients on ``/ws/job/{id}``.

A real ``aura up`` and one worker process; a chunk carries the moment at which the handler wrote it. The SDK seals and stores what a
handler writes, and collects what comes until that is acknowledged, 5 ms at least; nats-server flushes and republishes, the gateway
opens it and writes frames: all of that is in the latency. The gateway has the first core and the clients the second; everything else
shares both. Baseline: ``fanout/bare_tokens.py``, the same chunks over JetStream with nothing else, on both cores.
"""

from __future__ import annotations

import asyncio
import signal
import sys

from bench import servers
from bench.bench import Bench, Scenario
from bench.fanout import bare_tokens, tools
from bench.fanout.tools import Load, Server
from bench.figures import Figure, Target
from bench.http import Http
from bench.processes import CpuMeter
from bench.servers import AuraUp

JOBS, RATE, WATCHERS = 100, 200, 2
_WARM_S = 2.5


async def run(bench: Bench) -> None:
    """See the module docstring."""
    if not tools.ready(bench.folder):
        return
    for jobs in (10, JOBS):
        with bench.scratch("bare-tokens") as folder:
            bare = await bare_tokens.measure(folder, jobs, RATE, bench.pick(8, 3))
        found, spent = await _stream(bench, jobs, bench.pick(8, 3))
        records = found.samples / WATCHERS
        note = (
            f"p50 {found.p50_ms:.1f}  p90 {found.p90_ms:.1f}  p99 {found.p99_ms:.1f}  max {found.max_ms:.0f} ms (n = {found.samples:,}); "
            f"{jobs * RATE * found.seconds / max(records, 1):.1f} chunks per record; gateway {found.busy}; {spent}"
        )
        target = Target(at_most=20.0) if jobs == JOBS else None
        name = f"{jobs} jobs × {RATE} chunks/s × {WATCHERS} clients"
        bench.report(Figure(f"{name}, p99", found.p99_ms, "ms", bare.p99, "bare prototype", target, note))
        bench.report(Figure(f"  {name}, p50", found.p50_ms, "ms", bare.p50, "bare prototype"))


async def _stream(bench: Bench, jobs: int, window: int) -> tuple[Load, str]:
    with bench.scratch("tokens") as folder:
        async with servers.aura_up(folder) as up:
            program = [sys.executable, "-m", "bench.fanout.token_worker", str(jobs), str(RATE)]
            worker = await servers.copy_of(program, env=up.nats_env(), log=folder / "worker.log")
            try:
                ids = await _started(up, worker, jobs)
                pids = up.pids
                tools.pin(pids["gateway"], tools.cores()[0])
                paths = folder / "paths"
                paths.write_text("".join(f"/ws/job/{job_id}\n" for job_id in ids), "ascii")
                gateway = Server(int(up.url.rpartition(":")[2]), pids["gateway"])
                meter = CpuMeter({**pids, "worker": worker.pid})
                loading = asyncio.create_task(
                    tools.load(
                        bench.folder,
                        gateway,
                        clients=jobs * WATCHERS,
                        paths=paths,
                        order='"i":',
                        stamp="t=",
                        warm=_WARM_S,
                        window=window,
                        limit=60,
                    )
                )
                await asyncio.sleep(1.0)
                worker.send_signal(signal.SIGUSR1)
                found = await loading
                return found, _shares(meter, window + _WARM_S - 1.0)
            finally:
                await servers.end(worker, 1.0)


def _shares(meter: CpuMeter, seconds: float) -> str:
    """How busy each process was, of one core."""
    spent = meter.per(1)  # milliseconds
    return (
        ", ".join(f"{name} {ms / seconds / 10:.0f}%" for name, ms in spent.items() if ms / seconds > 5) + " of a core"
    )


async def _started(up: AuraUp, worker: asyncio.subprocess.Process, jobs: int) -> list[str]:
    """Submit the jobs; their ids, when all of them run."""
    http = Http(up.url)
    task = {"type": "tokens", "role": "Employee", "payload": {}}
    answer = await http.post("/prds", {"project_id": 1, "title": "tokens", "tasks": [task] * jobs})
    http.close()
    assert worker.stdout is not None
    async with asyncio.timeout(60):
        while not (line := await worker.stdout.readline()).startswith(b"running"):  # it logs there too
            if not line:
                raise RuntimeError("the worker ended")
    ids: list[str] = answer["job_ids"]
    return ids


SCENARIO = Scenario("token_stream", "100 jobs stream tokens, two browsers each", run)
