"""Everything the gateway stands on, as one frozen value, and what it makes of it once per application."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from aura.clock import Clock
from aura.config import Settings
from aura.errors import ConfigError, Overloaded
from aura.gateway.access.access import Access, OpenAccess
from aura.gateway.access.scoping import LoggedProjects
from aura.gateway.api.log_pages import LogPages
from aura.gateway.api.state_metrics import StateMetrics
from aura.gateway.limits import Limits
from aura.gateway.live.admission import Admission
from aura.gateway.live.fanout.hub import Hub
from aura.gateway.live.fanout.turn import Turn
from aura.gateway.live.history import History
from aura.gateway.live.relay_studio import StudioRelay
from aura.gateway.live.taps import OutputTaps
from aura.gateway.metrics import Metrics
from aura.gateway.ports import Check, Commands, Explain, HealthFeed, NextJob, OutputReader, Queries
from aura.ids import IdSource
from aura.log.ports import ContentStore
from aura.log.store import EventStore


@dataclass(frozen=True, slots=True)
class GatewayContext:
    """Ports and settings. ``checks`` are further readiness checks by name (the log and the hub are always checked)."""

    settings: Settings
    clock: Clock
    ids: IdSource
    commands: Commands
    store: EventStore
    content: ContentStore
    output: OutputReader
    queries: Queries
    next_job: NextJob
    explain: Explain
    hub: Hub
    metrics: Metrics
    health: HealthFeed | None = None
    limits: Limits = field(default_factory=Limits)
    checks: Mapping[str, Check] = field(default_factory=dict)
    version: str = "0.0.0"
    access: Access | None = None
    """Who may do what; without it everybody may, which only mode ``open`` allows."""


class Gate:
    """At most ``limit`` at once; the next one is refused rather than queued (G12)."""

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._inside = 0

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Raises ``Overloaded`` when full."""
        if self._inside >= self._limit:
            raise Overloaded(f"too many {self._name} at once", retry_after_s=1)
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1


class Gateway:
    """The context and the state of one application."""

    def __init__(self, ctx: GatewayContext) -> None:
        self.ctx = ctx
        if ctx.access is None and ctx.settings.auth != "open":
            raise ConfigError(f"AURA_AUTH={ctx.settings.auth} needs somebody at the door")
        self.access: Access = ctx.access or OpenAccess(ctx.settings.director_api_key, ctx.clock)
        self.hub = ctx.hub
        self.limits = ctx.limits
        self.commands = Gate("commands", ctx.limits.commands)
        self.projects = LoggedProjects(ctx.commands, ctx.store)
        self.state_metrics = StateMetrics(ctx.queries, ctx.clock)
        self.reads = Gate("reads", ctx.limits.reads)
        self.waiting = Gate("waiting workers", ctx.limits.waiting)
        self.pages = LogPages(ctx.store, page_events=ctx.limits.page_events, keep=ctx.limits.pages)
        self.history = History(ctx.limits.page_bytes)
        self.taps = OutputTaps(ctx.output, ctx.hub)
        self.turn = Turn(ctx.hub.wrote)
        self.studio = StudioRelay(ctx.hub, self.taps, ctx.store)
        self.admission = Admission(ctx.clock, ctx.limits, ctx.metrics)
