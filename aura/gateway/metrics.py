"""What Prometheus scrapes at ``/metrics``. One registry per application, so that two in one process (tests) do not
collide.

Labels are bounded: route templates, never paths. Children are looked up once.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The gateway's counters. Children are cached by callers on hot paths."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "aura_http_requests", "HTTP requests", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "aura_http_request_seconds",
            "Time to the first byte of the answer",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.connections = Gauge("aura_live_connections", "Live clients", ["dialect"], registry=self.registry)
        self.events = Counter("aura_hub_events", "Events taken from the log", registry=self.registry)
        self.deliveries = Counter("aura_hub_deliveries", "Frames handed to live clients", registry=self.registry)
        self.bytes = Counter("aura_live_bytes", "Bytes handed to live clients", registry=self.registry)
        self.dropped = Counter(
            "aura_live_dropped", "Live clients that the gateway closed or refused", ["reason"], registry=self.registry
        )
        self.resumed = Counter(
            "aura_live_resumes",
            "Clients that caught up: from the ring alone, from shared pages of the log, from a filtered read of it",
            ["source"],
            registry=self.registry,
        )
        self.latency_live = Histogram(
            "aura_live_publish_seconds",
            "From stored in the log to written to live clients' sockets, the oldest event of each tick",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.resumes = Counter(
            "aura_hub_replayed_pages", "Catch-up pages by source", ["source"], registry=self.registry
        )
        self.resets = Counter("aura_hub_resets", "Cursors that could not be honoured", registry=self.registry)
        self.lag = Histogram(
            "aura_hub_lag_seconds",
            "From stored in the log to handed to live clients",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.access_refused = Counter(
            "aura_access_refused",
            "Requests and handshakes without credentials, with unknown ones, of addresses that failed too often, and forbidden ones",
            ["reason"],
            registry=self.registry,
        )
        self.refused = Counter("aura_http_refused", "Requests refused at the edge", ["code"], registry=self.registry)

        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._live: dict[str, Gauge] = {}
        self._caught_up: dict[str, tuple[Counter, Counter]] = {}

    def exposition(self) -> bytes:
        """The text format, everything."""
        return generate_latest(self.registry)

    def live(self, dialect: str) -> Gauge:
        """Its live clients."""
        found = self._live.get(dialect)
        if found is None:
            found = self._live[dialect] = self.connections.labels(dialect)
        return found

    def caught_up(self, source: str) -> tuple[Counter, Counter]:
        """The pages that came from ``source``, and the clients that caught up from it."""
        found = self._caught_up.get(source)
        if found is None:
            found = self._caught_up[source] = (self.resumes.labels(source), self.resumed.labels(source))
        return found

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        found = self._children.get((method, route, status))
        if found is None:
            found = (self.requests.labels(method, route, str(status)), self.latency.labels(method, route))
            self._children[method, route, status] = found
        found[0].inc()
        found[1].observe(seconds)
