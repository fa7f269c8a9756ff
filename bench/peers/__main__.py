"""``python -m bench.peers [PEER…] [--json FILE] [--quick] [--rounds N]``: the peers and ours, one table."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from bench import machine, servers
from bench.machine import say
from bench.peers import judge, ours, queues
from bench.peers.judge import Result

OURS = "Aura Orchestra"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description="Other job queues for Python, and ours.")
    names = [peer.name for peer in queues.PEERS]
    parser.add_argument("peers", nargs="*", help=f"words in names; without: all of {names} and {OURS!r}")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--quick", action="store_true", help="fewer jobs, one round")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def _chosen(name: str, words: list[str]) -> bool:
    return not words or any(word.lower() in name.lower() for word in words)


async def _run(args: argparse.Namespace, folder: Path) -> tuple[list[Result], dict[str, str]]:
    rounds = 1 if args.quick else args.rounds
    share = 4 if args.quick else 1
    results: list[Result] = []
    skipped: dict[str, str] = {}
    for peer in queues.PEERS:
        if not _chosen(peer.name, args.peers):
            continue
        if reason := queues.missing(peer):
            skipped[peer.name] = reason
            continue
        say(f"  {peer.name}")
        bulk, single = peer.jobs // share, peer.single_jobs // share
        with tempfile.TemporaryDirectory(dir=folder) as own:
            async with judge.running(peer, Path(own), judge.capacity(bulk, single, rounds)) as queue:
                results.append(await judge.measure(peer.name, queue, bulk, single, rounds))
    if _chosen(OURS, args.peers):
        say(f"  {OURS}")
        bulk, single = ours.JOBS // share, ours.SINGLE_JOBS // share
        with tempfile.TemporaryDirectory(dir=folder) as own:
            async with ours.running(Path(own), judge.capacity(bulk, single, rounds)) as queue:
                results.append(await judge.measure(OURS, queue, bulk, single, rounds))
    return results, skipped


def _table(results: list[Result], skipped: dict[str, str]) -> str:
    about = {peer.name: (peer.durability, peer.history) for peer in queues.PEERS}
    about[OURS] = (ours.DURABILITY, ours.HISTORY)
    head = (
        "queue",
        "bulk jobs/s",
        "single jobs/s",
        "start p50",
        "p90",
        "p99 ms",
        "ran",
        "lost",
        "twice",
        "durable",
        "history",
    )
    rows = [head]
    for one in results:
        late = one.latency
        rates = (f"{one.bulk:,.0f}", f"{one.single:,.0f}", f"{late.p50:.1f}", f"{late.p90:.1f}", f"{late.p99:.1f}")
        rows.append((one.name, *rates, f"{one.jobs:,}", str(one.lost), str(one.repeated), *about[one.name]))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines + [f"not run: {name}: {why}" for name, why in skipped.items()])


def main() -> None:
    """See the module docstring."""
    args = _arguments()
    with tempfile.TemporaryDirectory(prefix="aura-peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        facts = machine.describe(folder)
        if queues.PYTHON.exists():
            facts["peers"] = queues.versions()
        print(machine.text(facts))
        results, skipped = asyncio.run(_run(args, folder))
        print()
        print(_table(results, skipped))
        if args.json:
            settings = {peer.name: peer.settings for peer in queues.PEERS} | {OURS: ours.SETTINGS}
            found = [one.to_json() for one in results]
            servers.dump(args.json, {"machine": facts, "settings": settings, "results": found, "skipped": skipped})


if __name__ == "__main__":
    main()
