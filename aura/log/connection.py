"""A NATS connection as the log needs it: it never gives up, and it has a raw path.

``connect`` returns a :class:`Connection`, nats-py's client with four differences:

* **Raw subscriptions** hand the message's bytes to a plain function where the socket is read (``direct.py``): no message object, no
  queue, no task. Such a function must be quick and must not await. Raw commands (:meth:`Connection.send`) go out with whatever else
  is pending in this turn of the event loop, in one system call, without nats-py's flusher while the socket takes them.
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
from nats.aio.transport import TcpTransport

from aura.errors import Unavailable
from aura.ids import IdSource, SystemIds
from aura.log.credentials import connect_options
from aura.log.direct import DirectParser, DirectReader, RawHandler

if TYPE_CHECKING:
    from aura.log.inbox import Inbox

log = structlog.get_logger("aura.log")
#: nats-py reports every failed attempt to its own logger as well; ours is the one that counts.
logging.getLogger("nats.aio.client").setLevel(logging.CRITICAL)

PENDING_BYTES = 32 * 1024 * 1024
PING_INTERVAL_S = 10
#: Beyond this much unsent in the socket's buffer, what is sent waits in the list that :data:`PENDING_BYTES` bounds.
UNSENT_BYTES = 64 * 1024
#: How long an acknowledgement may wait for something to travel with.
ALONG_S = 0.02
MAX_RECONNECT_WAIT_S = 2.0


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


class Connection(Client):
    """See the module docstring. ``inbox_prefix`` is this user's own inbox space."""

    def __init__(self) -> None:
        super().__init__()
        self._ps = DirectParser(self)
        self.raw_handlers: dict[int, RawHandler] = {}
        self.inbox_prefix = "_INBOX"
        self.inbox: Inbox | None = None
        self.gather_s = 0.0
        self._leaving = False
        self._along: asyncio.TimerHandle | None = None
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
        queued = self._queue(command)
        if queued and not self._leaving:
            self._leaving = True
            asyncio.get_running_loop().call_soon(self._leave)
        return queued

    def send_along(self, command: bytes) -> bool:
        """As :meth:`send`, for what is in no hurry: it leaves with the next command, at the latest after :data:`ALONG_S`."""
        queued = self._queue(command)
        if queued and not self._leaving and self._along is None:
            self._along = asyncio.get_running_loop().call_later(ALONG_S, self._leave)
        return queued

    def _queue(self, command: bytes) -> bool:
        waiting = self._pending_data_size
        if not self.is_connected or (waiting and waiting + len(command) > PENDING_BYTES):
            return False
        self._pending.append(command)
        self._pending_data_size = waiting + len(command)
        return True

    def _leave(self) -> None:
        """Write what is pending; if the socket does not take it, nats-py's flusher does, and waits for room."""
        self._leaving = False
        if self._along is not None:
            self._along.cancel()
            self._along = None
        if not self._write_pending(UNSENT_BYTES) and self._pending and self.is_connected:
            queue = self._flush_queue
            if queue is not None and queue.empty():
                queue.put_nowait(asyncio.get_running_loop().create_future())

    def _write_pending(self, unless_unsent: float = float("inf")) -> bool:
        """Whether the socket took what is pending; not while it has ``unless_unsent`` bytes or more to send."""
        writer = self._writer
        if not self._pending or not self.is_connected or writer is None or writer.is_closing():
            return False
        if writer.transport.get_write_buffer_size() >= unless_unsent:
            return False
        pending, self._pending, self._pending_data_size = self._pending, [], 0
        writer.write(pending[0] if len(pending) == 1 else b"".join(pending))
        return True

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        return self._transport._io_writer if isinstance(self._transport, TcpTransport) else None

    async def _read_loop(self) -> None:
        transport = self._transport
        if not isinstance(transport, TcpTransport) or transport._io_writer is None or transport._io_reader is None:
            await super()._read_loop()
            return
        parser = self._ps = DirectParser(self)
        try:
            await DirectReader(self, parser, transport._io_writer).run(transport._io_reader)
        except nats_errors.UnexpectedEOF as error:
            await self._error_cb(error)
            await self._process_op_err(error)
        except (nats_errors.ProtocolError, OSError) as error:
            await self._process_op_err(error)

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

    def take_over(self, subscription: Subscription, handler: RawHandler) -> None:
        """Give what comes for one of nats-py's own subscriptions to a plain function, until :meth:`give_back`."""
        self.raw_handlers[subscription._id] = handler

    def give_back(self, subscription: Subscription) -> None:
        """The end of :meth:`take_over`."""
        self.raw_handlers.pop(subscription._id, None)

    async def flush(self, timeout: int = 10) -> None:
        """Return when the server has handled everything sent so far. nats-py's ping alone would overtake what is pending."""
        self._write_pending()  # whatever the socket has unsent: the ping goes there too
        await super().flush(timeout)

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
    gather_s: float = 0.0,
) -> Connection:
    """Connect to one or more servers (``url`` may be a comma-separated list) and stay connected until ``close``.

    ``name`` is what ``nats server report connections`` shows. ``gather_s``: let messages gather for so long (``direct.py``).
    Raises ``ConfigError`` for unreadable credentials and ``Unavailable`` when no server accepts us within ``connect_timeout_s``.
    """
    connection = Connection()
    connection.gather_s = gather_s
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
