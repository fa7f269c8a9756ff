"""The checks of ``aura doctor``: each looks at one thing and never changes anything.

A check that cannot be made because an earlier one failed says so in one line; whatever a check raises becomes its finding.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aura import config
from aura.cli.api import Api
from aura.clock import SystemClock
from aura.config import Settings
from aura.errors import AuraError, Unavailable
from aura.ids import SystemIds
from aura.running import running

if TYPE_CHECKING:
    from aura.log.connection import Connection

State = Literal["ok", "warn", "fail"]
LITTLE_DISK, NO_DISK = 2 * 1024**3, 256 * 1024**2
MUCH_LAG = 10_000
SKEW_S = 2.0
#: A leader renews its lease several times a second; without a change for this long nobody leads.
LEADER_SILENT_S = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. ``mend`` says what to do; empty when all is well."""

    check: str
    state: State
    found: str
    mend: str = ""


async def checkup(settings: Settings, url: str) -> list[Finding]:
    """All checks in order."""
    return [finding async for finding in _Checkup(settings, url).run()]


class _Checkup:
    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._url = url
        self._up = running(settings.data_dir)
        self._open = AsyncExitStack()
        self._connection: Connection | None = None
        self._log_seq: int | None = None
        self._clock = SystemClock()

    async def run(self) -> AsyncIterator[Finding]:
        checks: list[tuple[str, Callable[[], Awaitable[Finding]]]] = [
            ("settings", self._discover),
            ("data folder", self._folder),
            ("disk", self._disk),
            ("aura up", self._running),
            ("nats", self._nats),
            ("streams", self._streams),
            ("scheduler", self._leader),
            ("postgres", self._postgres),
            ("gateway", self._gateway),
            ("workers", self._workers),
            ("clock", self._skew),
        ]
        async with self._open:
            for name, check in checks:
                try:
                    found = await check()
                except AuraError as error:
                    found = Finding(name, "fail", error.detail or error.code, "see the logs: " + str(self._logs))
                except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not the end of the others
                    found = Finding(
                        name, "fail", f"{type(error).__name__}: {error}", "see the logs: " + str(self._logs)
                    )
                yield replace(found, check=name)

    @property
    def _logs(self) -> Path:
        return self._settings.data_dir / "logs"

    async def _discover(self) -> Finding:
        self._settings = config.discover(self._settings, "admin")
        config.refuse_open_bind(self._settings)
        director = self._settings.director_api_key
        if director is not None and len(director) < config.MIN_DIRECTOR_KEY:
            mend = f"give it at least {config.MIN_DIRECTOR_KEY} characters that nobody guesses: `openssl rand -hex 24`"
            return Finding("", "warn", "AURA_DIRECTOR_API_KEY is short", mend)
        changed = [row.env for row in config.rows(self._settings) if row.source in ("env", "file", "flag")]
        return Finding("", "ok", f"set: {', '.join(changed)}" if changed else "all at their defaults")

    async def _folder(self) -> Finding:
        folder = self._settings.data_dir
        if not folder.exists():
            return Finding("", "warn", f"{folder} does not exist yet", "`aura up` makes it")
        for path in (folder, *(folder / name for name in ("credentials", "keys", "nats"))):
            if path.exists() and path.stat().st_mode & 0o077:
                return Finding("", "fail", f"{path} is open to other users", f"chmod 700 {path}")
        for path in (*folder.glob("credentials/*"), *folder.glob("keys/*")):
            if path.is_file() and path.stat().st_mode & 0o077:
                return Finding("", "fail", f"{path} can be read by other users", f"chmod 600 {path}")
        return Finding("", "ok", f"{folder} is private")

    async def _disk(self) -> Finding:
        folder = self._settings.data_dir
        free = shutil.disk_usage(folder if folder.exists() else Path.cwd()).free
        text = f"{free / 1024**3:.1f} GiB free"
        if free < NO_DISK:
            return Finding("", "fail", text, f"make room where {folder} lies: without it nothing is acknowledged")
        return Finding("", "warn" if free < LITTLE_DISK else "ok", text, "make room soon" if free < LITTLE_DISK else "")

    async def _running(self) -> Finding:
        settings = self._settings
        if self._up is not None:
            children = ", ".join(self._up.get("children", {}))
            return Finding("", "ok", f"runs as pid {self._up['supervisor']['pid']} with {children}")
        if settings.sources.get("nats_url") in ("env", "flag", "file"):
            return Finding("", "ok", "not here: AURA_NATS_URL names the server")
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host.strip("[]"), settings.port))
            except OSError:
                text = f"does not run on {settings.data_dir}, and port {settings.port} belongs to somebody else"
                return Finding("", "fail", text, "start `aura up --port 0`, or name the folder with --data")
        return Finding(
            "", "fail", f"does not run on {settings.data_dir}", "start `aura up`, or name the folder with --data"
        )

    async def _nats(self) -> Finding:
        from aura.log.connection import connect

        settings = self._settings
        if settings.nats_url is None:
            return Finding("", "fail", "no server to ask", "start `aura up`, or set AURA_NATS_URL")
        try:
            self._connection = await connect(
                settings.nats_url, settings.creds_of("admin"), "aura-doctor", connect_timeout_s=3
            )
        except AuraError as error:
            mend = "is the server up, and are AURA_NATS_URL and AURA_NATS_CREDS right?"
            return Finding("", "fail", error.detail, mend)
        self._open.push_async_callback(self._connection.close)
        return Finding("", "ok", f"answers at {config.masked(settings.nats_url)}")

    async def _streams(self) -> Finding:
        if self._connection is None:
            return _skipped("nats")
        from aura.log import topology
        from aura.log.jetstream import JetStreamEventStore

        copies = topology.replicas(self._connection, self._settings.replicas)
        report = await topology.inspect(self._connection, self._clock, SystemIds(), replicas=copies)
        if report.missing:
            return Finding("", "fail", f"missing: {', '.join(report.missing)}", "start `aura up`: it makes them")
        store = JetStreamEventStore(self._connection, self._clock, SystemIds())
        identity = await store.identity()
        self._log_seq = identity.last_seq
        if report.drift:
            drift = "; ".join(f"{d.stream}.{d.setting} is {d.found}, wanted {d.wanted}" for d in report.drift[:5])
            return Finding("", "warn", drift, "compare with `nats stream info`, then `nats stream edit` by hand")
        return Finding("", "ok", f"as they should be; the log ends at {identity.last_seq}, epoch {identity.epoch[:8]}…")

    async def _leader(self) -> Finding:
        if self._connection is None:
            return _skipped("nats")
        import orjson

        from aura.log import wire
        from aura.log.inbox import inbox_of
        from aura.log.reader import StreamReader
        from aura.log.store import Recorded

        inbox = inbox_of(self._connection, self._clock, SystemIds())
        reader: StreamReader[Recorded] = StreamReader(inbox, "KV_AURA_LEASES", wire.recorded, gapless=False)
        last = await reader.last("$KV.AURA_LEASES.scheduler", consistent=True)
        mend = f"start `aura scheduler`; if it runs, see {self._logs / 'scheduler.log'}"
        lease = orjson.loads(last.body) if last is not None else {}
        if last is None or not lease.get("holder"):
            return Finding("", "fail", "nobody leads: jobs are not assigned", mend)
        silent_s = self._clock.now().timestamp() - last.stored_at_ns / 1e9
        if silent_s > LEADER_SILENT_S:
            return Finding("", "fail", f"{lease['holder']} led, and is silent for {silent_s:.0f} s", mend)
        return Finding("", "ok", f"{lease['holder']} leads, term {lease['term']}")

    async def _postgres(self) -> Finding:
        if self._settings.database_url is None:
            return Finding("", "fail", "no database to ask", "start `aura up`, or set AURA_DATABASE_URL")
        from aura.projections.queries import Queries

        queries = Queries(self._settings.database_url, clock=self._clock, max_connections=1)
        self._open.push_async_callback(queries.stop)
        await queries.start()
        try:
            rows = await queries.projections(log_seq=self._log_seq)
            kept = await queries.quarantined(limit=1)
        except AuraError as error:
            mend = f"is Postgres up and AURA_DATABASE_URL right? New database: the projector makes the tables; see {self._logs}"
            return Finding("", "fail", error.detail, mend)
        lag = max((row["lag_events"] or 0 for row in rows), default=0)
        text = f"{len(rows)} read models, {lag} events behind"
        if kept:
            return Finding(
                "", "warn", f"{text}; quarantined: {kept[0]['entity']} ({kept[0]['reason']})", "see read.quarantine"
            )
        if not rows or lag > MUCH_LAG:
            return Finding("", "fail", text, f"start `aura projector`; if it runs, see {self._logs / 'projector.log'}")
        return Finding("", "ok", text)

    def _get(self, path: str) -> tuple[int, Mapping[str, str], Any]:
        """Status, headers, decoded JSON. Raises ``Unavailable``, ``ValueError``."""
        import orjson

        with Api(self._url, timeout_s=5) as api:
            status, headers, body = api.probe(path)
        return status, headers, orjson.loads(body)

    async def _gateway(self) -> Finding:
        try:
            status, _, answer = self._get("/readyz?verbose")
        except Unavailable as error:
            return Finding("", "fail", error.detail, f"if `aura gateway` runs, see {self._logs / 'gateway.log'}")
        if status == 200:
            return Finding("", "ok", f"ready at {self._url}")
        checks = answer.get("checks", {})
        wrong = "; ".join(f"{name}: {state}" for name, state in checks.items() if state != "ok")
        return Finding("", "fail", wrong or f"{self._url} answered {status}", "mend what is named above it")

    async def _workers(self) -> Finding:
        try:
            status, _, rows = self._get("/models/health")
        except (Unavailable, ValueError):
            return _skipped("gateway")
        if status != 200:
            return _skipped("gateway")
        seen = {row["model_name"]: row for row in rows}
        wanted = sorted(set(self._settings.role_models.values()))
        missing = [model for model in wanted if not (seen.get(model) or {}).get("slots")]
        online = ", ".join(f"{name} {row['slots']} slots" for name, row in seen.items()) or "none online"
        if missing:
            mend = (
                f"start one: aura worker command --model {missing[0]} --allow make "
                f"(or use HTTP: POST /models/{missing[0]}/next)"
            )
            return Finding("", "warn", f"{online}; nobody serves {', '.join(missing)}", mend)
        return Finding("", "ok", online)

    async def _skew(self) -> Finding:
        try:
            there = parsedate_to_datetime(self._get("/health")[1]["date"])
        except (Unavailable, KeyError, ValueError, TypeError):
            return _skipped("gateway")
        skew_s = (self._clock.now() - there).total_seconds()
        if abs(skew_s) > SKEW_S:
            text = f"the gateway's clock is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} ours"
            return Finding(
                "", "warn", text, "use NTP; delays and times in events are off, safety does not depend on it"
            )
        return Finding("", "ok", "agrees with the gateway's")


def _skipped(because: str) -> Finding:
    return Finding("", "warn", f"not checked: {because} does not answer")
