"""The few bytes of the NATS client protocol that the log writes and reads itself.

nats-py builds a dictionary of headers, a message object and a task switch for every message. The log's hot paths (append,
direct get, live tail) need none of that: they build one command as bytes and look up three headers in a raw block.

Invariant: nothing that reaches :func:`command` can add a protocol line. Subjects and header values with control
characters, and subjects with spaces or above :data:`MAX_SUBJECT` bytes (a longer control line makes the server drop the
shared connection), raise ``InvalidRequest``.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from aura.errors import InvalidRequest
from aura.log.store import Recorded

#: Longest subject ever sent, bytes. nats-server's control line limit is 4,096 and holds reply subject and sizes too.
MAX_SUBJECT = 1_024

_SEQUENCE = b"\r\nNats-Sequence: "
_SUBJECT = b"\r\nNats-Subject: "
_NANOS = 1_000_000_000


def check_subject(subject: str) -> None:
    """Raise ``InvalidRequest`` for a subject that could break the protocol."""
    if not subject or len(subject) > MAX_SUBJECT or " " in subject or not subject.isprintable():
        raise InvalidRequest("a subject is empty, too long or has characters that are not allowed")


def header_block(pairs: Iterable[tuple[str, str]]) -> bytes:
    """A raw NATS header block (``NATS/1.0`` line, headers, blank line). Raises ``InvalidRequest`` for control characters."""
    lines = [f"{name}: {value}" for name, value in pairs]
    if not "".join(lines).isprintable():
        name = next(line for line in lines if not line.isprintable()).partition(":")[0]
        raise InvalidRequest(f"header {name} has characters that are not allowed")
    return "\r\n".join(("NATS/1.0", *lines, "\r\n")).encode()


def command(subject: str, reply: str, headers: bytes, body: bytes) -> bytes:
    """One PUB or HPUB command, ready for the socket."""
    check_subject(subject)
    if not headers:
        return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(body), body)
    size = len(headers)
    return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), size, size + len(body), headers, body)


def status(headers: bytes | None) -> int:
    """The inline status of a header block (``NATS/1.0 404 …`` → 404), 0 when there is none."""
    if not headers or headers[8:9] != b" ":
        return 0
    digits = headers[9:12]
    return int(digits) if digits.isdigit() else 0


def header(headers: bytes | None, name: str) -> str | None:
    """The last header of that name. The server appends its own headers, so its word wins over the writer's."""
    if not headers:
        return None
    needle = f"\r\n{name}: ".encode()
    start = headers.rfind(needle)
    if start < 0:
        return None
    start += len(needle)
    return headers[start : headers.index(b"\r\n", start)].decode()


def header_pairs(headers: bytes | None) -> dict[str, str]:
    """All headers as a dictionary (the last of a name wins); for paths that are not hot."""
    found: dict[str, str] = {}
    for line in (headers or b"").split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            found[name.decode("ascii", "replace").strip()] = value.strip().decode("utf-8", "replace")
    return found


_second_text = b""
_second_ns = 0


def stored_ns(stamp: bytes) -> int:
    """``2026-11-22T02:50:13.07726Z`` → Unix nanoseconds, exactly. Go drops trailing zeros of the fraction.

    The whole second is cached: messages come in order, so thousands share it.
    """
    global _second_text, _second_ns
    second = stamp[:19]
    if second != _second_text:
        when = datetime.strptime(second.decode(), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        _second_ns = int(when.timestamp()) * _NANOS
        _second_text = second
    fraction = stamp[20:-1]
    return _second_ns + int(fraction.ljust(9, b"0")) if fraction else _second_ns


def sequence(headers: bytes) -> int:
    """``Nats-Sequence``, 0 when the message is not a stored one."""
    start = headers.rfind(_SEQUENCE)
    if start < 0:
        return 0
    start += len(_SEQUENCE)
    return int(headers[start : headers.index(b"\r\n", start)])


def recorded(headers: bytes, body: bytes) -> Recorded:
    """A stored message, from the headers that direct get and republish both append, in this order: stream, subject, sequence,
    time. Raises ``ValueError`` without them."""
    start = headers.rindex(_SUBJECT) + len(_SUBJECT)
    subject, seq, stamp, _ = headers[start:].split(b"\r\n", 3)
    if not seq.startswith(b"Nats-Sequence: ") or not stamp.startswith(b"Nats-Time-Stamp: "):
        raise ValueError("not a stored message")
    return Recorded(int(seq[15:]), subject.decode(), stored_ns(stamp[17:]), body)
