"""``/ws/events`` and ``/sse/events``: every lifecycle event as flat JSON, one per frame, which is what the hub's frames are already. Pure.

What is left to decide is where a client begins and which subjects it gets.
"""

from __future__ import annotations

from aura.gateway.api.forms import LiveQuery
from aura.gateway.live.feed import Cursor
from aura.gateway.live.subscriptions import log_patterns
from aura.gateway.live.visibility import Visibility


def cursor_of(asked: LiveQuery) -> Cursor:
    """After ``since``, or with the ``last`` n events, or from now on."""
    return Cursor(asked.since, asked.last, asked.epoch)


def patterns_of(asked: LiveQuery, visible: Visibility) -> tuple[str, ...]:
    """Without a subject everything that the client may see, log lines and heartbeats included. Raises ``Forbidden``,
    ``InvalidRequest``."""
    if asked.subject is None:
        return visible.everything()
    if asked.subject == "aura.>":
        return visible.of_log()
    patterns = log_patterns(asked.subject)
    for pattern in patterns:
        visible.check(pattern)
    return patterns
