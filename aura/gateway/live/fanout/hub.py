"""Fan-out inside one gateway: one tail of the log, a ring, a trie of subscriptions, the same bytes for everybody.

::

    LogTail ──on_batch──▶ ring, trie ──▶ groups (one per set of subjects) ──next turn of the loop──▶ one write per
    client
    heartbeats, log lines ──note──▶ trie ──▶ groups (live only, no sequence)
    a client that is behind: live.follow ──ring or log──▶ … ──join (same turn as its last check)──▶ group

Invariants

* A group's members have all frames up to the last flush; joining flushes the group first. So whoever joins at the
  head gets the next event next: no gap, no duplicate (G11).
* An event costs the trie's walk, one frame, and per matching group one entry and per member one write of joined bytes
  (``aura.v1``: one array frame). A group with several subjects gets an event once however many of them match.
* No client is waited for. One whose unsent bytes exceed the budget is closed with 4408 and the sequence to resume
  from (G12); what the others share with it is a reference, never a copy. How each is written to: ``group.py``.
* Everything runs in the event loop's thread; nothing here awaits except :meth:`caught_up`.

Failure cases: a watcher that raises is the only one that ends, and is told so (:meth:`watch`). The tail reports a log that is not ours
any more (:meth:`lost`): clients get a reset and 1001, ``/ready`` says so and nothing is delivered afterwards. Before
:meth:`begin`, and after :meth:`lost` or :meth:`close`, connecting is refused (503).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from aura.clock import Clock
from aura.errors import Unavailable
from aura.gateway.limits import Limits
from aura.gateway.live.fanout.fan import Fan
from aura.gateway.live.fanout.frames import Frame, Note, native_messages, reset_note
from aura.gateway.live.fanout.group import Group
from aura.gateway.live.fanout.outlet import Ending, Outlet, Wire
from aura.gateway.live.fanout.ring import Ring
from aura.gateway.live.fanout.trie import SubjectTrie
from aura.gateway.live.feed import LogView
from aura.gateway.metrics import Metrics
from aura.log.store import LogIdentity, Recorded

log = structlog.get_logger("aura.gateway")

_STARTING = "starting"
Watcher = Callable[[Frame], None]
#: Told what its watcher raised.
Failed = Callable[[Exception], None]


class _Watch:
    __slots__ = ("callback", "failed", "patterns")

    def __init__(self, patterns: tuple[str, ...], callback: Watcher, failed: Failed | None) -> None:
        self.patterns = patterns
        self.callback = callback
        self.failed = failed


class Hub:
    """See the module docstring."""

    def __init__(self, clock: Clock, limits: Limits, metrics: Metrics, fan: Callable[[], Fan] = Fan) -> None:
        self._clock = clock
        self._fan = fan
        self._limits = limits
        self._metrics = metrics
        self._groups: dict[tuple[tuple[str, ...], Wire], Group] = {}
        self._trie: SubjectTrie[Group | _Watch] = SubjectTrie()
        self._dirty: dict[Group, None] = {}
        self._scheduled = False
        self._flushed = 0
        self._ring: Ring | None = None
        self._view: LogView | None = None
        self._outlets: dict[Outlet, str] = {}
        self._oldest_ns = 0
        """When the oldest event that is not flushed yet was stored; 0 when there is none."""
        self._reached: list[tuple[int, asyncio.Future[None]]] = []
        self.closing = asyncio.Event()
        """Set by :meth:`close`: whatever waits on behalf of a client ends now."""
        self.epoch = ""
        self.first = 1
        self.failure: str | None = _STARTING
        """Why nobody can connect; ``None`` when all is well."""

    # --- the log's side

    def begin(self, identity: LogIdentity, from_seq: int) -> None:
        """The tail will deliver from ``from_seq``. Called once, before the first batch."""
        self.epoch = identity.epoch
        self.first = max(identity.first_seq, 1)
        self._ring = Ring(from_seq - 1, max_frames=self._limits.ring_frames, max_bytes=self._limits.ring_bytes)
        self._flushed = from_seq - 1
        if self.failure == _STARTING:
            self.failure = None

    def on_batch(self, batch: list[Recorded]) -> None:
        """The tail's next events: consecutive, in order. Raises ``ValueError`` for a hole (the tail then ends)."""
        if self.failure is not None:
            return
        ring, trie = self._open_ring(), self._trie
        for recorded in batch:
            frame = Frame(recorded)
            ring.append(frame)
            for target in trie.match(recorded.subject):
                if isinstance(target, Group):
                    target.add(frame)
                    self._dirty[target] = None
                else:
                    self._call(target, frame)
        self._oldest_ns = self._oldest_ns or batch[0].stored_at_ns
        self._metrics.events.inc(len(batch))
        self._metrics.lag.observe(max(0.0, self._clock.now().timestamp() - batch[0].stored_at_ns / 1e9))
        self._schedule()
        if self._reached:
            self._announce(ring.head)

    def listens(self, subject: str) -> bool:
        """Whether anybody wants ``subject`` now: what nobody wants need not be built."""
        return self.failure is None and any(isinstance(target, Group) for target in self._trie.match(subject))

    def note(self, subject: str, note: Note) -> None:
        """Something live only, for whoever wants ``subject`` now."""
        if self.failure is not None:
            return
        for target in self._trie.match(subject):
            if isinstance(target, Group):
                target.add_note(note, subject)
                self._dirty[target] = None
        if self._dirty:
            self._schedule()

    def lost(self, reason: str) -> None:
        """The log is not the one we followed (G5): reset everybody, take nobody in. Before :meth:`begin` it means: never begin."""
        if self.failure not in (None, _STARTING):
            return
        self.flush()
        self.failure = reason
        log.error("hub.lost", reason=reason)
        reset = reset_note(self.epoch, reason, 0)
        for outlet in list(self._outlets):
            outlet.write(reset_bytes(reset, outlet.wire))
            outlet.end(Ending.GOING_AWAY, "the log changed: reload")
        waiting, self._reached = self._reached, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(Unavailable(f"live feeds are not available: {reason}"))

    async def caught_up(self, seq: int) -> None:
        """Return when ``seq`` was delivered by the tail. Raises ``Unavailable`` when the hub is not running."""
        if self._open_ring().head >= seq:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reached.append((seq, future))
        await future

    def _announce(self, head: int) -> None:
        waiting, self._reached = self._reached, []
        for seq, future in waiting:
            if future.done():
                continue
            if seq <= head:
                future.set_result(None)
            else:
                self._reached.append((seq, future))

    # --- the clients' side

    @property
    def head(self) -> int:
        """The newest sequence delivered to this process."""
        return self._open_ring().head

    @property
    def connections(self) -> int:
        """Clients of all kinds."""
        return len(self._outlets)

    def view(self) -> LogView:
        """The log as a feed needs to know it. Raises ``Unavailable``."""
        ring, view = self._open_ring(), self._view
        if view is None or (view.head, view.epoch) != (ring.head, self.epoch):
            view = self._view = LogView(self.epoch, self.first, ring.first, ring.head)
        return view

    def ring_after(self, seq: int, max_bytes: int) -> list[Frame]:
        """See :meth:`Ring.after`."""
        return self._open_ring().after(seq, max_bytes)

    def admit(self, outlet: Outlet, dialect: str) -> None:
        """Count a client in. Raises ``Unavailable`` when there are too many, or the hub is not running."""
        if self.failure is not None:
            raise Unavailable(f"live feeds are not available: {self.failure}")
        if len(self._outlets) >= self._limits.connections:
            raise Unavailable("too many live connections", retry_after_s=5)
        self._outlets[outlet] = dialect
        self._metrics.live(dialect).inc()

    def dismiss(self, outlet: Outlet) -> None:
        """Count it out. Safe twice."""
        dialect = self._outlets.pop(outlet, None)
        if dialect is not None:
            self._metrics.live(dialect).dec()

    def join(self, patterns: tuple[str, ...], outlet: Outlet) -> Group:
        """Deliver live from the head on: call it in the same turn as the check that nothing is missing."""
        key = (patterns, outlet.wire)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(patterns, outlet.wire, self.head, self._fan())
            for pattern in patterns:
                self._trie.insert(pattern, group)
        self.wrote(*self._flush_group(group))
        group.join(outlet)
        return group

    def leave(self, group: Group, outlet: Outlet) -> None:
        """Deliver no more. Safe twice."""
        group.leave(outlet)
        key = (group.patterns, group.wire)
        if group.empty and self._groups.get(key) is group:
            del self._groups[key]
            for pattern in group.patterns:
                self._trie.remove(pattern, group)
            self._dirty.pop(group, None)

    def detach(self, group: Group, outlet: Outlet) -> int:
        """Leave with everything up to the head, whose sequence is returned: to join again with other subjects."""
        self.wrote(*self._flush_group(group))
        self.leave(group, outlet)
        return self.head

    def watch(self, patterns: Iterable[str], callback: Watcher, failed: Failed | None = None) -> Callable[[], None]:
        """Call ``callback`` with every matching frame after the current head. Returns how to stop.

        One that raises is not called again; ``failed``, which must not raise, is told. All others go on."""
        watch = _Watch(tuple(patterns), callback, failed)
        for pattern in watch.patterns:
            self._trie.insert(pattern, watch)
        return lambda: self._unwatch(watch)

    def _unwatch(self, watch: _Watch) -> None:
        for pattern in watch.patterns:
            self._trie.remove(pattern, watch)

    def _call(self, watch: _Watch, frame: Frame) -> None:
        try:
            watch.callback(frame)
        except Exception as error:  # one watcher's bug, or an event that nobody foresaw, is not the end of the feed
            log.exception("hub.watcher_failed", seq=frame.seq, subject=frame.subject)
            self._unwatch(watch)
            if watch.failed is not None:
                watch.failed(error)

    def slow(self, outlet: Outlet, resume: str) -> None:
        """Close a client that does not keep up; ``resume`` is the query to connect with again."""
        if not outlet.closed:
            self._metrics.dropped.labels("too_slow").inc()
            outlet.end(Ending.TOO_SLOW, resume)

    def wrote(self, messages: int, size: int) -> None:
        """Count what was written to a client past the groups (history, a job's feed)."""
        self._metrics.deliveries.inc(messages)
        self._metrics.bytes.inc(size)

    def close(self, reason: str = "restarting") -> None:
        """Say goodbye to everybody (1001). Safe twice."""
        self.flush()
        self.closing.set()
        self.failure = self.failure or reason
        for outlet in list(self._outlets):
            outlet.end(Ending.GOING_AWAY, reason)
        for _, future in self._reached:
            future.cancel()
        self._reached = []

    # --- writing

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """Write what is pending, each client's frames in one piece."""
        self._scheduled = False
        dirty, self._dirty = self._dirty, {}
        messages = size = 0
        for group in dirty:
            of_group = self._flush_group(group)
            messages += of_group[0]
            size += of_group[1]
        if messages:
            self.wrote(messages, size)
        if self._ring is not None:
            self._flushed = self._ring.head
        if self._oldest_ns:
            oldest_ns, self._oldest_ns = self._oldest_ns, 0
            if dirty:
                self._metrics.latency_live.observe(max(0.0, self._clock.now().timestamp() - oldest_ns / 1e9))

    def _flush_group(self, group: Group) -> tuple[int, int]:
        """How many messages and bytes were written."""
        messages, size, slow = group.write(self._limits.outbound_bytes)
        for outlet in slow:
            self.slow(outlet, f"since={max(group.flushed, self._flushed)}")
        group.flushed = self._ring.head if self._ring is not None else 0
        return messages, size

    def _open_ring(self) -> Ring:
        if self._ring is None:
            raise Unavailable("live feeds are starting")
        return self._ring


def reset_bytes(reset: Note, wire: Wire) -> bytes:
    """A reset as a client of that framing reads it. ``aura.v1`` calls it an ``op``, not a ``type``."""
    if wire == "native":
        return native_messages([b'{"op":"reset",%b' % reset.text[len(b'{"type":"reset",') :]])
    return reset.ws if wire == "ws" else reset.sse
