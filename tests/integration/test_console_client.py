"""The TypeScript module, as it is built, under Node against a real gateway and through cut connections (G11)."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.access import client, issue, secured
from tests.support.gateway import World, running
from tests.support.proxy import Proxy

CONSOLE = Path(__file__).parents[2] / "console"


def _missing() -> str | None:
    node = shutil.which("node")
    if node is None:
        return "there is no node on this machine"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").split(".")[0]) < 20:
        return f"node {version} is older than 20"
    if not (CONSOLE / "node_modules" / "typescript").is_dir():
        return "console/node_modules is not there: run `make setup`"
    return None


pytestmark = pytest.mark.skipif(_missing() is not None, reason=_missing() or "")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module as JavaScript, from today's sources."""
    target = tmp_path_factory.mktemp("console") / "client"
    compiler = CONSOLE / "node_modules" / "typescript" / "bin" / "tsc"
    command = ["node", str(compiler), "-p", "tsconfig.client.json", "--outDir", str(target)]
    done = subprocess.run(command, cwd=CONSOLE, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout
    (target / "package.json").write_text('{"type":"module"}')
    return target


class Driven:
    """``console/test/drive.mjs`` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[dict[str, Any]] = []

    async def until(self, key: str, value: object = ...) -> dict[str, Any]:
        """Read on to the first message that has ``key`` (with ``value``)."""
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            while line := await self._process.stdout.readline():
                message: dict[str, Any] = orjson.loads(line)
                self.said.append(message)
                if key in message and value in (..., message[key]):
                    return message
        assert self._process.stderr is not None
        raise AssertionError((await self._process.stderr.read()).decode())

    async def ask(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())
        await self._process.stdin.drain()


@asynccontextmanager
async def driven(built: Path, url: str, until: int, **env: str) -> AsyncIterator[Driven]:
    process = await asyncio.create_subprocess_exec(
        "node", str(CONSOLE / "test" / "drive.mjs"), str(built), url, str(until),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | env,
    )  # fmt: skip
    try:
        yield Driven(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _claim(world: World, job_id: str) -> None:
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})


async def test_the_module_submits_follows_and_comes_back_after_every_cut_G11(built: Path) -> None:
    async with running() as world, Proxy(world.url) as proxy:
        async with driven(built, proxy.url.replace("nats://", "http://"), 62) as node:
            [job_id] = (await node.until("submitted"))["submitted"]
            assert (await node.until("refused"))["refused"] == "conflict"
            assert (await node.until("bad_subject"))["bad_subject"] == "invalid_request"
            await _claim(world, job_id)
            for number in range(60):
                await world.submit()
                if number % 7 == 6:
                    await node.until("live")
                    proxy.cut()
            await node.until("seq", 62)
        seen = [message for message in node.said if "seq" in message]
        assert [message["seq"] for message in seen] == list(range(1, 63))
        assert seen[0] == {"seq": 1, "subject": f"aura.job.1.{job_id}.created", "type": "job.created"}
        assert not [message for message in node.said if "reset" in message or "error" in message]
        assert len([message for message in node.said if "live" in message]) > 5


async def test_output_of_a_job_comes_once_through_cuts_G11(built: Path) -> None:
    async with running() as world, Proxy(world.url) as proxy:
        async with driven(built, proxy.url.replace("nats://", "http://"), 1_000) as node:
            [job_id] = (await node.until("submitted"))["submitted"]
            await _claim(world, job_id)
            await world.post(f"/jobs/{job_id}/stream", {"chunk": "c0"})
            await node.ask(f"output 1 {job_id}")
            await node.until("output_live")
            for number in range(1, 40):
                await world.post(f"/jobs/{job_id}/stream", {"chunk": f"c{number}"})
                if number % 10 == 5:
                    proxy.cut()
            await node.until("i", 39)
        assert [message["chunk"] for message in node.said if "i" in message] == [f"c{n}" for n in range(40)]


async def test_a_page_takes_a_fresh_ticket_for_every_connection_G13(built: Path) -> None:
    async with secured() as world, Proxy(world.url) as proxy:
        key = await issue(world, "operator", [1])
        async with driven(built, proxy.url.replace("nats://", "http://"), 1_000, AURA_API_KEY=key) as node:
            [job_id] = (await node.until("submitted"))["submitted"]
            await node.until("live")
            proxy.cut()
            await node.until("live")
            async with client(world, key) as http:
                assert (await http.post(f"/jobs/{job_id}/cancel", json={})).status_code == 200
            await node.until("type", "job.cancelled")
        assert not [message for message in node.said if "reset" in message or "error" in message]


def test_the_example_of_the_guide_is_valid_typescript(tmp_path: Path) -> None:
    guide = (CONSOLE.parent / "docs" / "guides" / "clients.md").read_text("utf-8")
    [example] = re.findall(r"```ts\n(.*?)```", guide, re.DOTALL)
    source = example.replace('from "./client"', f'from "{CONSOLE}/src/client/index.ts"')
    (tmp_path / "example.ts").write_text(source)
    options = {"types": [], "rewriteRelativeImportExtensions": False, "allowImportingTsExtensions": True}
    config = {"extends": f"{CONSOLE}/tsconfig.json", "compilerOptions": options, "include": ["example.ts"]}
    (tmp_path / "tsconfig.json").write_bytes(orjson.dumps(config))
    compiler = CONSOLE / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run(["node", str(compiler), "-p", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
