"""Every bound of the gateway in one place (G12). Bytes, counts, seconds."""

from __future__ import annotations

from dataclasses import dataclass

#: ``/models/health`` shows models heard of in the last five minutes.
HEALTH_WINDOW_S = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What one gateway process allows. A test lowers them; nobody else should need to."""

    body_bytes: int = 1024 * 1024
    body_timeout_s: float = 30.0
    #: How much of a body that is too large, and how long, is thrown away so that its sender can read the refusal.
    discard_bytes: int = 32 * 1024 * 1024
    discard_s: float = 5.0
    head_bytes: int = 32 * 1024
    head_timeout_s: float = 15.0
    json_depth: int = 64
    #: Commands running at once; the next one is answered 429.
    commands: int = 512
    #: Reads running at once.
    reads: int = 128
    #: ``next`` calls waiting for work at once.
    waiting: int = 2_000
    #: WebSocket and SSE clients of this process; of one user, where users are known; and new ones: a burst, then so many a second.
    connections: int = 20_000
    connections_per_user: int = 10
    accept_burst: int = 10_000
    accept_per_s: float = 2_000.0
    #: How long a client of an auth mode may take to send its ticket.
    auth_s: float = 10.0
    #: Clients that have yet to send it, and those of one address (which may be a proxy's): then the one that waits longest must go.
    pending: int = 1_000
    pending_per_address: int = 50
    inbound_bytes: int = 64 * 1024
    inbound_fragments: int = 64
    #: Inbound WebSocket messages: a burst, then so many a second.
    inbound_burst: int = 200
    inbound_per_s: float = 50.0
    #: Operations of ``aura.v1`` (a message brings up to 128 of them): a burst, then so many a second.
    operations_burst: int = 400
    operations_per_s: float = 50.0
    #: Unsent bytes of one client above which it is too slow (4408).
    outbound_bytes: int = 1024 * 1024
    #: Subscriptions and replays of one ``aura.v1`` connection together, and replays of it at once.
    subscriptions: int = 128
    replays: int = 4
    #: Output subscriptions of it that read history at once, and the most records that ``{"last": n}`` of one gives.
    outputs_at_once: int = 2
    last_records: int = 500
    #: How long a client that is catching up may take no byte at all.
    stall_s: float = 30.0
    ring_frames: int = 16_384
    ring_bytes: int = 16 * 1024 * 1024
    #: Bytes of one catch-up step: the next is written when it has left.
    page_bytes: int = 256 * 1024
    #: Events of one page read from the log, and how many such pages are kept for the next client that asks.
    page_events: int = 1_000
    pages: int = 8
    #: How long ``min_seq`` waits for the read model.
    min_seq_wait_s: float = 5.0
    ping_s: float = 20.0
    sse_heartbeat_s: float = 15.0
    orchestrator_heartbeat_s: float = 30.0
    drain_s: float = 5.0
