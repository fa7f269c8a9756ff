"""What both store adapters refuse before they ask the log, so that they refuse it alike."""

from __future__ import annotations

from collections.abc import Sequence

from aura.errors import InvalidRequest, TooLarge
from aura.log import wire
from aura.log.store import MAX_BATCH, MAX_EVENT_BYTES, Append

_SPACES = ("aura.job.", "aura.model.", "aura.session.", "aura.system.")


def check_append(append: Append) -> None:
    """Raises ``TooLarge`` above 32 KiB, ``InvalidRequest`` for a subject outside the log or with wildcards or control
    characters (such a message would be lost, or stored where nobody looks)."""
    if len(append.body) > MAX_EVENT_BYTES:
        raise TooLarge(f"an event has at most {MAX_EVENT_BYTES} bytes", limit=MAX_EVENT_BYTES)
    subject = append.subject
    wire.check_subject(subject)
    if not subject.startswith(_SPACES) or "*" in subject or ">" in subject or ".." in subject or subject[-1] == ".":
        raise InvalidRequest("not a subject of the log")
    if not append.event_id.isprintable() or not 0 < len(append.event_id) <= 128 or append.expected_seq < 0:
        raise InvalidRequest("an event has an id of 1 to 128 characters and an expected sequence from 0")
    if append.guard is None:
        if not subject.startswith("aura.system."):
            raise InvalidRequest("only system events are stored without a guard")
    elif append.guard[-2:] != ".>" or not subject.startswith(append.guard[:-1]):
        # The server does not check this: a guard that matches nothing would silently let everything through.
        raise InvalidRequest("the guard does not cover the subject")


def check_batch(appends: Sequence[Append]) -> None:
    """As :func:`check_append` for each, and 1–1,000 events of distinct entities (``InvalidRequest``)."""
    if not 1 <= len(appends) <= MAX_BATCH:
        raise InvalidRequest(f"a batch has 1 to {MAX_BATCH} events")
    for append in appends:
        check_append(append)
    guards = [append.guard for append in appends if append.guard is not None]
    if len(set(guards)) != len(guards):
        raise InvalidRequest("a batch has at most one event per entity")
