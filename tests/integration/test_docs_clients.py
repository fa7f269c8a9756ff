"""The examples of docs/guides/clients.md work as they stand."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from aura.client import Aura, Event
from tests.support.gateway import World, running

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "clients.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL)


async def work(world: World) -> None:
    """A worker that greets whoever submits."""
    async with Aura(world.url) as aura, aclosing(aura.follow("aura.job.*.*.created", since=0)) as items:
        async for item in items:
            if isinstance(item, Event):
                job = f"/jobs/{item.flat['job_id']}"
                await world.post(f"{job}/claim", {"worker_id": "w"})
                await world.post(f"{job}/log", {"level": "INFO", "line": "a line"})
                await world.post(f"{job}/progress", {"percent": 50, "step": "half"})
                await world.post(f"{job}/stream", {"chunk": "hello you\n", "final": True})
                await world.post(f"{job}/complete", {"success": True, "attempt": 1})


def program(example: str, url: str) -> Any:
    """The example's ``main``, against ``url``."""
    assert "http://127.0.0.1:8000" in example
    source = example.replace("http://127.0.0.1:8000", url).replace("asyncio.run(main())", "")
    found: dict[str, Any] = {}
    exec(compile(source, str(GUIDE), "exec"), found)
    return found["main"]


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
async def test_python_example(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    async with running() as world:
        working = asyncio.create_task(work(world))
        await world.submit()
        try:
            async with asyncio.timeout(20):
                await program(EXAMPLES[number], world.url)()
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
    said = capsys.readouterr().out
    assert "job.completed" in said
    if "watch" in EXAMPLES[number]:
        assert "[INFO] a line\n50 % half\nhello you\njob.completed COMPLETED\n" in said
