"""A NATS connection as the log needs it: it never gives up, and it has a raw path.

``connect`` returns a :class:`Connection`, nats-py's client with four differences:

* **Raw subscriptions** hand the message's bytes to a plain function inside the read loop: no message object, no queue, no
  task. Such a function must be quick and must not await. Raw commands (:meth:`Connection.send`) go out with whatever else
  is pending, in one system call.
* **It reconnects for ever**, with jitter, also after a protocol error of an established connection (nats-py closes for
  good then). Listeners are told of every loss and return, so that what was in flight can be settled.
* **Nothing is carried over a lost connection.** A command sent while there is none, or still waiting to leave when it breaks, is
  dropped: executed after the reconnect it would come too late (its sender has given up) or twice (its sender sent it again).
  Whoever needs it sent again says so (``inbox.request(resend_s=…)``, ``guarded.py``) and does it on return.
* A pong that nobody waits for any more, or a handler that raises, does not stop the read loop.
* Every user has an inbox of its own, ``_INBOX_<user>``, so that its credential can pin it (``credentials.py``).

Failure cases: the first connection may be refused for as long as ``connect_timeout_s``, then ``Unavailable`` is raised
(servers start slower than clients). A socket that takes nothing holds at most ``PENDING_BYTES``; what is sent beyond that is
dropped, and :meth:`Connection.send` says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client, Server
from nats.aio.subscription import Subscription
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from aura.errors import Unavailable
from aura.ids import IdSource, SystemIds
from aura.log.credentials import connect_options

if TYPE_CHECKING:
    from aura.log.inbox import Inbox

log = structlog.get_logger("aura.log")
#: nats-py reports every failed attempt to its own logger as well; ours is the one that counts.
logging.getLogger("nats.aio.client").setLevel(logging.CRITICAL)

PENDING_BYTES = 32 * 1024 * 1024
PING_INTERVAL_S = 10
MAX_RECONNECT_WAIT_S = 2.0

RawHandler = Callable[[bytes, bytes, bytes, "bytes | None"], None]
"""``(subject, reply, body, headers)``; called in the read loop."""


class RawSubscription:
    """A subscription whose messages go to a plain function."""

    def __init__(self, connection: Connection, subscription: Subscription, sid: int) -> None:
        self._connection = connection
        self._subscription = subscription
        self._sid = sid

    async def unsubscribe(self) -> None:
        """Stop delivery at once. Safe twice, and on a closed connection."""
        if self._connection.raw_handlers.pop(self._sid, None) is None or self._connection.is_closed:
            return
        await self._subscription.unsubscribe()


class _Parser(Parser):
    """nats-py's parser with a straight path for messages: no regular expressions, no buffer copies, no coroutine for raw
    handlers. Everything that is not a message, and whatever follows it in the same read, goes to nats-py's own code."""

    nc: Connection

    async def parse(self, data: bytes = b"") -> None:
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        if self.buf:
            data = bytes(self.buf) + data
            self.buf.clear()
        position, size = 0, len(data)
        connection = self.nc
        while position < size:
            line_end = data.find(b"\r\n", position)
            if line_end < 0:
                break
            with_headers = data.startswith(b"HMSG ", position)
            if not with_headers and not data.startswith(b"MSG ", position):
                await super().parse(data[position:])
                return
            fields = data[position:line_end].split(b" ")
            start = line_end + 2
            end = start + int(fields[-1])
            if end + 2 > size:
                break
            payload = start + int(fields[-2]) if with_headers else start
            headers = data[start:payload] if with_headers else None
            reply = fields[3] if len(fields) == (6 if with_headers else 5) else b""
            position = end + 2
            sid = int(fields[2])
            handler = connection.raw_handlers.get(sid)
            if handler is None:
                await connection._process_msg(sid, fields[1], reply, data[payload:end], headers)
                continue
            try:
                handler(fields[1], reply, data[payload:end], headers)
            except Exception:  # the read loop serves every subscription: one bad handler must not stop it
                log.exception("nats.handler_failed")
        if position < size:
            self.buf.extend(data[position:])


class Connection(Client):
    """See the module docstring. ``inbox_prefix`` is this user's own inbox space."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = _Parser(self)
        self.raw_handlers: dict[int, RawHandler] = {}
        self.inbox_prefix = "_INBOX"
        self.inbox: Inbox | None = None
        self._on_lost: list[Callable[[], None]] = []
        self._on_back: list[Callable[[], None]] = []
        self._on_close: list[Callable[[], None]] = []

    def on_disconnect(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` whenever the connection is lost."""
        self._on_lost.append(listener)

    def on_reconnect(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every reconnect, once subscriptions are in place again."""
        self._on_back.append(listener)

    def on_close(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` when the connection is closed for good."""
        self._on_close.append(listener)

    def forget_listener(self, listener: Callable[[], None]) -> None:
        """Take a listener back. Safe when it was never registered."""
        for listeners in (self._on_lost, self._on_back, self._on_close):
            if listener in listeners:
                listeners.remove(listener)

    @property
    def clustered(self) -> bool:
        """Whether the server says that it belongs to a cluster."""
        return bool((self._server_info or {}).get("cluster"))

    def send(self, command: bytes) -> bool:
        """Queue one complete protocol command (``wire.command``); it leaves in this turn of the event loop.

        ``False``: it was dropped and will not be delivered, since there is no connection, or :data:`PENDING_BYTES` wait already.
        """
        waiting = self._pending_data_size
        if not self.is_connected or (waiting and waiting + len(command) > PENDING_BYTES):
            return False
        self._pending.append(command)
        self._pending_data_size = waiting + len(command)
        queue = self._flush_queue
        if queue is not None and queue.empty():
            queue.put_nowait(asyncio.get_running_loop().create_future())
        return True

    async def subscribe_raw(self, subject: str, handler: RawHandler, queue: str = "") -> RawSubscription:
        """Subscribe with a plain function. Returns once the command is on its way (``flush`` to be sure it arrived)."""
        sid = self._sid + 1
        self.raw_handlers[sid] = handler
        try:
            subscription = await self.subscribe(subject, queue=queue)
        except BaseException:
            self.raw_handlers.pop(sid, None)
            raise
        return RawSubscription(self, subscription, sid)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        handler = self.raw_handlers.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)  # type: ignore[arg-type]
            return
        try:
            handler(subject, reply, data, headers)
        except Exception:  # the read loop serves every subscription: one bad handler must not stop it
            log.exception("nats.handler_failed")

    async def _process_pong(self) -> None:
        if self._pongs:
            future = self._pongs.pop(0)
            if not future.done():
                future.set_result(True)
            self._pongs_received += 1
            self._pings_outstanding = 0

    async def _process_err(self, err_msg: str) -> None:
        error = nats_errors.Error(f"nats: {err_msg.strip(chr(39))}")
        if "permissions violation" in err_msg:
            await self._error_cb(error)
        else:
            await self._process_op_err(error)

    async def close(self) -> None:
        """Close for good. Safe twice, and while reconnecting."""
        try:
            await super().close()
        except asyncio.CancelledError:
            # nats-py cancels its reconnect, which may be waiting for the same socket to close, and that cancels our wait too.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            await self.gone()
        except OSError:  # what was pending could not be sent any more
            await self.gone()

    async def gone(self) -> None:
        for listener in list(self._on_close):
            listener()

    async def lost(self) -> None:
        if self.is_closed:
            return
        log.warning("nats.disconnected", error=str(self.last_error or ""), dropped_bytes=self._pending_data_size)
        self._pending = [command for command in self._pending if not command.startswith((b"PUB ", b"HPUB "))]
        self._pending_data_size = sum(map(len, self._pending))
        for listener in list(self._on_lost):
            listener()

    async def back(self) -> None:
        url = self.connected_url
        log.info("nats.reconnected", server=url.netloc.rpartition("@")[2] if url else "")
        for listener in list(self._on_back):
            listener()


def _reconnect_policy(ids: IdSource) -> Callable[[list[Server], dict[str, Any]], tuple[Server | None, float]]:
    def choose(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
        server = min(servers, key=lambda s: s.reconnects)
        longest = min(MAX_RECONNECT_WAIT_S, 0.05 * 2 ** min(server.reconnects, 10))
        jitter = int.from_bytes(ids.random_bytes(2)) / 65_536
        return server, longest * (0.5 + jitter / 2)

    return choose


async def _report(error: Exception) -> None:
    if isinstance(error, nats_errors.SlowConsumerError):
        log.error("nats.slow_consumer", subject=error.subject)
    else:
        log.warning("nats.error", error=str(error), kind=type(error).__name__)


async def connect(
    url: str,
    creds_path: Path | str | None = None,
    name: str = "aura",
    *,
    inbox_prefix: str | None = None,
    connect_timeout_s: float = 10.0,
    ids: IdSource | None = None,
) -> Connection:
    """Connect to one or more servers (``url`` may be a comma-separated list) and stay connected until ``close``.

    ``name`` is what ``nats server report connections`` shows. Raises ``ConfigError`` for unreadable credentials and
    ``Unavailable`` when no server accepts us within ``connect_timeout_s``.
    """
    connection = Connection()
    options = connect_options(Path(creds_path)) if creds_path is not None else {}
    if inbox_prefix is not None:
        options["inbox_prefix"] = inbox_prefix
    connection.inbox_prefix = options.setdefault("inbox_prefix", "_INBOX")
    last: list[str] = []

    async def first_errors(error: Exception) -> None:
        last[:] = [str(error) or type(error).__name__]
        if connection.stats["reconnects"] or connection.is_connected or connection.is_reconnecting:
            await _report(error)

    try:
        async with asyncio.timeout(connect_timeout_s):
            await connection.connect(
                [part.strip() for part in url.split(",")],
                name=name,
                error_cb=first_errors,
                disconnected_cb=connection.lost,
                closed_cb=connection.gone,
                reconnected_cb=connection.back,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,  # type: ignore[arg-type]
                reconnect_to_server_handler=_reconnect_policy(ids or SystemIds()),
                ping_interval=PING_INTERVAL_S,
                pending_size=PENDING_BYTES,
                flusher_queue_size=65_536,
                **options,
            )
    except TimeoutError as error:
        await connection.close()
        why = f": {last[0]}" if last else ""
        raise Unavailable(f"the log at {url.rpartition('@')[2]} does not answer{why}") from error
    return connection
