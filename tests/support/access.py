"""A gateway in an auth mode, and keys for it: ``async with secured() as world: key = await issue(world, "viewer", [1])``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from aura.commands.handler import Caller
from tests.support.gateway import World, running

BOOTSTRAP = Caller("user:nats", "correlation", "causation")
ROLES = ("viewer", "worker", "operator", "auditor", "director")


@asynccontextmanager
async def secured(**options: Any) -> AsyncIterator[World]:
    """A started world in mode ``keys`` (or another ``auth``); its ``http`` sends no credentials."""
    async with running(**{"auth": "keys", **options}) as world:
        yield world


async def issue(world: World, role: str, projects: Sequence[int] | None = None, **more: Any) -> str:
    """A key, made as ``aura access issue`` makes the first one; it opens the gateway when this returns."""
    body: dict[str, Any] = {"role": role, **({} if projects is None else {"projects": list(projects)}), **more}
    made = await world.commands.call("issue_key", body, BOOTSTRAP)
    if world.ctx.access is not None:
        await world.ctx.access.key_reached(made["key_id"], made["seq"])
    key: str = made["key"]
    return key


def key_id(key: str) -> str:
    """The id in a key."""
    return key.split("_")[1]


def auth(key: str) -> dict[str, str]:
    """The header."""
    return {"authorization": f"Bearer {key}"}


@asynccontextmanager
async def client(world: World, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client that is that key."""
    async with httpx.AsyncClient(base_url=world.url, headers=auth(key), trust_env=False, timeout=10) as http:
        yield http


async def submit(http: httpx.AsyncClient, project: int, **task: Any) -> dict[str, Any]:
    """A PRD of one task."""
    body = {"title": "T", "project_id": project, "tasks": [{"payload": {"secret": f"of {project}"}, **task}]}
    answer = await http.post("/prds", json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made
