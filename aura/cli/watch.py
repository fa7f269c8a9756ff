"""``--watch``: a PRD's tasks as a live tree, with the tail of what each is writing; plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from aura.cli.feeds import client, tell_reset
from aura.cli.main import tell
from aura.cli.output import STATUS_STYLES, Format, safe, write_json, write_line
from aura.client import Aura, Chunk, Event, LogLine, Progress, Reset
from aura.clock import SystemClock

if TYPE_CHECKING:
    from rich.tree import Tree

#: Lines of output shown under a running task, and how many tasks are read at once.
TAIL_LINES, MAX_READ = 6, 8
_MARKS = {"COMPLETED": "✔", "FAILED": "✘", "CANCELLED": "✘", "SUBMITTED": "?", "IN_PROGRESS": "▶"}


@dataclass(slots=True)
class Task:
    """What is known of one task."""

    job_id: str
    title: str
    status: str = "QUEUED"
    model: str = ""
    attempt: int = 0
    percent: float | None = None
    step: str = ""
    why: str = ""
    ended: bool = False
    started_s: float = 0.0
    took_s: float | None = None
    partial: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    def add(self, text: str) -> list[str]:
        """More output; the lines it completed. The last ones are kept, the unfinished one may grow."""
        *whole, self.partial = (self.partial + safe(text)).split("\n")
        self.lines.extend(whole)
        return whole

    def forget_output(self) -> None:
        """Other output comes in the place of what was shown."""
        self.lines.clear()
        self.partial, self.percent = "", None

    def take(self, event: Event, now_s: float) -> None:
        """A lifecycle event."""
        self.status = event.status or self.status
        self.model = event.flat.get("assigned_model") or self.model
        self.why = _why(event)
        if event.type == "job.claimed":
            self.attempt, self.started_s = event.flat["attempt"], now_s
            self.forget_output()
        self.ended = event.closes is not None
        if self.ended:
            self.took_s = now_s - self.started_s if self.started_s else None


def _why(event: Event) -> str:
    return "" if event.type == "job.assigned" else str(event.flat.get("error_code") or event.flat.get("reason") or "")


class PrdWatch:
    """Follows the tasks of one PRD to their ends. ``on_event(task, event)`` and ``on_lines(task, lines)`` are told as it goes."""

    def __init__(
        self,
        aura: Aura,
        title: str,
        tasks: dict[str, str],
        on_event: Callable[[Task, Event], None] = lambda _task, _event: None,
        on_lines: Callable[[Task, list[str]], None] = lambda _task, _lines: None,
    ) -> None:
        self._aura = aura
        self.title = title
        self.tasks = {job_id: Task(job_id, name) for job_id, name in tasks.items()}
        self._on_event = on_event
        self._on_lines = on_lines
        self._clock = SystemClock()
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MAX_READ)

    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._clock.monotonic_s()

    async def run(self, since: int) -> bool:
        """Until every task has ended; whether all are COMPLETED."""
        try:
            async with aclosing(self._aura.follow("aura.job.>", since=since)) as items:
                async for item in items:
                    if isinstance(item, Reset):
                        tell_reset(item)
                    elif isinstance(item, Event) and (task := self.tasks.get(item.flat.get("job_id", ""))) is not None:
                        self._take(task, item)
                        if all(task.ended for task in self.tasks.values()):
                            break
            # Output of the last task may still be on its way; its feed ends by itself.
            if self._readers:
                await asyncio.wait(self._readers.values(), timeout=2)
        finally:
            for reader in self._readers.values():
                reader.cancel()
            await asyncio.gather(*self._readers.values(), return_exceptions=True)
        return all(task.status == "COMPLETED" for task in self.tasks.values())

    def _take(self, task: Task, event: Event) -> None:
        task.take(event, self.now_s())
        self._on_event(task, event)
        if event.type == "job.claimed" and task.job_id not in self._readers:
            self._readers[task.job_id] = asyncio.create_task(self._read(task))

    async def _read(self, task: Task) -> None:
        async with self._room, aclosing(self._aura.watch(task.job_id)) as items:
            async for item in items:
                match item:
                    case Chunk(text=text):
                        self._on_lines(task, task.add(text))
                    case LogLine(line=line):
                        self._on_lines(task, task.add(f"{line}\n"))
                    case Progress(percent=percent, step=step):
                        task.percent, task.step = percent, step
                    case Reset():  # told by the log's own feed; the output comes again
                        task.forget_output()
                    case Event():
                        pass


async def watch_prd(url: str, title: str, tasks: dict[str, str], since: int, output: Format) -> int:
    """Show a PRD until its end; exit code 0 when all tasks COMPLETED, else 1."""
    async with client(url) as aura:
        if output != "table":
            write = write_json if output == "json" else write_line
            done = await PrdWatch(aura, title, tasks, lambda _task, event: write(event.flat)).run(since)
        elif not sys.stderr.isatty():
            done = await PrdWatch(aura, title, tasks, _tell_event, _echo_lines).run(since)
        else:
            done = await _live_tree(PrdWatch(aura, title, tasks), since)
    return 0 if done else 1


async def _live_tree(watch: PrdWatch, since: int) -> bool:
    from rich.console import Console
    from rich.live import Live

    with Live(console=Console(stderr=True), get_renderable=lambda: tree(watch), refresh_per_second=12) as live:
        done = await watch.run(since)
        live.refresh()
    return done


def _tell_event(task: Task, _event: Event) -> None:
    tell(safe(f"{task.title}: {task.status} {task.why}".rstrip()))


def _echo_lines(task: Task, lines: list[str]) -> None:
    for line in lines:
        click.echo(f"{safe(task.title)} | {line}")


def tree(watch: PrdWatch) -> Tree:
    """The picture of now."""
    from rich.text import Text
    from rich.tree import Tree

    done = sum(task.ended for task in watch.tasks.values())
    root = Tree(Text(f"{safe(watch.title)}  {done}/{len(watch.tasks)}", "bold"))
    for task in watch.tasks.values():
        line = Text(f"{_MARKS.get(task.status, '·')} ", STATUS_STYLES.get(task.status, ""))
        line.append(safe(task.title))
        line.append(f"  {task.status}", STATUS_STYLES.get(task.status, ""))
        if task.attempt > 1:
            line.append(f"  attempt {task.attempt}", "dim")
        if task.percent is not None and not task.ended:
            line.append(f"  {task.percent:.0f} % {safe(task.step)}", "dim")
        took = task.took_s if task.ended else watch.now_s() - task.started_s if task.status == "IN_PROGRESS" else None
        if took is not None:
            line.append(f"  {took:.1f} s", "dim")
        if task.why and task.status in ("FAILED", "CANCELLED", "QUEUED"):
            line.append(f"  {safe(task.why)}", "red")
        branch = root.add(line)
        shown = [*task.lines, *([task.partial] if task.partial else [])]
        if task.status == "IN_PROGRESS" or (task.status == "FAILED" and shown):
            for text in shown[-TAIL_LINES:]:
                branch.add(Text(text, "dim", no_wrap=True, overflow="ellipsis"))
    return root


async def watch_job(url: str, job_id: str, output: Format) -> int:
    """One job to its end: output on stdout, talk on stderr (or every message as JSON). Exit code 0 only for COMPLETED."""
    status = ""
    async with client(url) as aura, aclosing(aura.watch(job_id)) as items:
        async for item in items:
            if isinstance(item, Reset):
                status = ""
                tell_reset(item)
                continue
            if isinstance(item, Event):
                status = item.closes or status
            if output != "table":
                (write_json if output == "json" else write_line)(item.flat)
                continue
            match item:
                case Chunk(text=text):
                    click.echo(safe(text), nl=False)
                case LogLine(level=level, line=line):
                    tell(safe(f"[{level}] {line}"))
                case Progress(percent=percent, step=step):
                    tell(safe(f"{percent:.0f} % {step}"))
                case Event():
                    tell(safe(f"{item.type} {_why(item)}".rstrip()))
    return 0 if status == "COMPLETED" else 1
