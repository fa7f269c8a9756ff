"""Bytes on the wire, built once per event and shared by all clients. The event is not parsed.

A frame's text is ``{"seq":N,`` + the stored body without its first brace. A stored body that is not an object or not UTF-8
(poison, G17) is relayed as ``{"seq":N,"type":"system.unreadable"}``: the sequence stays contiguous for clients and
the text stays JSON. An event with a field ``seq`` of its own would answer for the envelope's (JSON parsers take the last one): in the
system events that once had one it is shown as ``at_seq``, as today's events call it.

``aura.v1`` wraps the same bytes: ``{"seq":N,"subject":"…","event":{…}}``, and what is pending for a client in one tick travels as one
JSON array of such objects (:func:`native_messages`).
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import pack

import orjson

from aura.log.store import Recorded

#: The envelope begins with ``id`` and ``type``.
_TYPE_WITHIN = 96
#: An array frame of ``aura.v1`` is at most this large, unless one message alone is larger.
ARRAY_BYTES = 256 * 1024


def event_json(seq: int, body: bytes) -> bytes:
    """The event as clients see it, one line of JSON."""
    if len(body) < 5 or body[0] != 0x7B or body[-1] != 0x7D or not (body.isascii() or _is_text(body)):
        return b'{"seq":%d,"type":"system.unreadable"}' % seq
    if b'"system.' in body[:_TYPE_WITHIN] and b'"seq"' in body:
        body = _without_own_seq(body)
    if b"\n" in body or b"\r" in body:  # between JSON tokens only; would break SSE and NDJSON
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    return b'{"seq":%d,%b' % (seq, body[1:])


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _without_own_seq(body: bytes) -> bytes:
    try:
        flat = orjson.loads(body)
    except orjson.JSONDecodeError:
        return b'{"type":"system.unreadable"}'
    if "seq" not in flat:
        return body
    return orjson.dumps({"at_seq" if name == "seq" else name: value for name, value in flat.items()})


def ws_text(payload: bytes) -> bytes:
    """A whole unmasked text frame (RFC 6455 §5.2)."""
    size = len(payload)
    if size < 126:
        return b"\x81%c%b" % (size, payload)
    if size < 65_536:
        return b"\x81\x7e%b%b" % (pack("!H", size), payload)
    return b"\x81\x7f%b%b" % (pack("!Q", size), payload)


def sse_event(payload: bytes, event_id: bytes | None = None, name: bytes | None = None) -> bytes:
    """One server-sent event (HTML Living Standard §9.2.6). A payload of several lines (``\\r`` and ``\\n`` both end one there)
    stays one event: each line is data."""
    if b"\n" in payload or b"\r" in payload:
        payload = payload.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    lines = []
    if event_id is not None:
        lines.append(b"id: %b\n" % event_id)
    if name is not None:
        lines.append(b"event: %b\n" % name)
    lines.append(b"data: %b\n\n" % payload)
    return b"".join(lines)


def native_messages(messages: Sequence[bytes]) -> bytes:
    """JSON objects of ``aura.v1`` as WebSocket frames: one object alone, several as arrays. At least one message."""
    if len(messages) == 1:
        return ws_text(messages[0])
    if sum(map(len, messages)) <= ARRAY_BYTES:
        return ws_text(b"[%b]" % b",".join(messages))
    frames: list[bytes] = []
    start = size = 0
    for at, message in enumerate(messages):
        size += len(message)
        if size > ARRAY_BYTES and at > start:
            frames.append(native_messages(messages[start:at]))
            start, size = at, len(message)
    frames.append(native_messages(messages[start:]))
    return b"".join(frames)


class _Framed:
    """A text and its WebSocket frame, which holds it: it is kept once."""

    __slots__ = ("_sse", "_text_at", "ws")

    def __init__(self, text: bytes) -> None:
        self.ws = ws_text(text)
        self._text_at = len(self.ws) - len(text)
        self._sse: bytes | None = None

    @property
    def text(self) -> bytes:
        """The JSON."""
        return self.ws[self._text_at :]


class Frame(_Framed):
    """One committed event, ready for every kind of client."""

    __slots__ = ("_native", "seq", "stored_at_ns", "subject")

    def __init__(self, recorded: Recorded) -> None:
        super().__init__(event_json(recorded.seq, recorded.body))
        self.seq = recorded.seq
        self.subject = recorded.subject
        self.stored_at_ns = recorded.stored_at_ns
        self._native: bytes | None = None

    @property
    def sse(self) -> bytes:
        """As a server-sent event whose id is the sequence."""
        if self._sse is None:
            self._sse = sse_event(self.text, b"%d" % self.seq)
        return self._sse

    @property
    def native(self) -> bytes:
        """As an object of ``aura.v1`` (JSON, not framed)."""
        if self._native is None:
            seq = b"%d" % self.seq
            event = self.ws[self._text_at + len(seq) + 8 :]  # after {"seq":N,
            self._native = b'{"seq":%b,"subject":%b,"event":{%b}' % (seq, orjson.dumps(self.subject), event)
        return self._native


class Note(_Framed):
    """Something without a sequence: a heartbeat, an output record, a reset. ``name`` is the SSE event name."""

    __slots__ = ("_name",)

    def __init__(self, text: bytes, name: bytes | None = None) -> None:
        super().__init__(text)
        self._name = name

    @property
    def sse(self) -> bytes:
        """As a server-sent event without an id."""
        if self._sse is None:
            self._sse = sse_event(self.text, name=self._name)
        return self._sse

    def native(self, subject: str) -> bytes:
        """As an object of ``aura.v1`` (JSON, not framed)."""
        return b'{"subject":%b,"event":%b}' % (orjson.dumps(subject), self.text)


def reset_note(epoch: str, reason: str, seq: int) -> Note:
    """What a client gets when its cursor cannot be honoured: never a silent hole (G11). It goes on from ``seq``."""
    return Note(orjson.dumps({"type": "reset", "epoch": epoch, "reason": reason, "seq": seq}), b"reset")
