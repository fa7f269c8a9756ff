"""What the gateway's sockets stand on: asyncio's own event loop, and what a gateway really runs on, uvloop and io_uring.

``from tests.support.loops import event_loop_policy`` in a module of tests runs all of them on both.
"""

from __future__ import annotations

import asyncio
from functools import lru_cache

import pytest
import uvloop

from aura.gateway.live.fanout.fan import Fan, Fans

__all__ = ["event_loop_policy", "fan"]

_POLICIES = {"asyncio": asyncio.DefaultEventLoopPolicy, "uvloop": uvloop.EventLoopPolicy}


@pytest.fixture(scope="module", params=_POLICIES)
def event_loop_policy(request: pytest.FixtureRequest) -> asyncio.AbstractEventLoopPolicy:
    """Takes the place of pytest-asyncio's."""
    return _POLICIES[request.param]()


@lru_cache(1)
def _fans() -> Fans:
    return Fans("auto")


def fan() -> Fan:
    """How a gateway of these tests writes to many: as a real one where the loop is a real one's, else a call for each."""
    try:
        real = isinstance(asyncio.get_running_loop(), uvloop.Loop)
    except RuntimeError:
        real = False
    return _fans()() if real else Fan()
