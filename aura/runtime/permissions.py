"""Who may publish and subscribe to what: two accounts, one NATS user per component, least privilege (DECISIONS.md).

Invariants, each tested against the real server in ``tests/integration/test_embedded_nats_permissions.py``:

* **Nobody publishes in the committed space** ``aura.{job,model,session,system,output}.>``: subscribers believe what they see
  there, and only the stream's republish may put it there.
* **A subject is an identity.** A worker may send commands only as ``cmd.aura.worker.<its id>.…``, so the command service
  knows who asks without a password in the message.
* **Nobody reads another's answers.** Each user listens on its own inbox prefix only, ``_INBOX_<user>``, a worker on
  ``_INBOX_worker.<id>``.
* **Workers never create consumers**: a consumer delivers to any subject.
* **Nobody deletes or purges the log**, whatever the stream's own flags say.
* **A reply subject is not a way in.** Servers and services answer on whatever reply subject the requester names, unchecked: in
  one account, a worker that names ``append.aura.job.…`` as the reply of a pull, or of a command, has the *server*, or the
  gateway, write an unguarded event into the log (tried; nats-server 2.15.1). So workers and onlookers live in an account of
  their own, ``EDGE``, which imports exactly the subjects below. Their reply subjects exist only there; on our side the answer
  goes to a ``_R_.…`` subject that the server made. For the same reason NATS' "allow responses" is not used.

What remains: inside ``EDGE`` a hostile worker can have pulled messages delivered on a subject that other workers listen to.
Readers of the committed space therefore believe only messages with the headers of a republish, ``Nats-Stream`` and
``Nats-Sequence``. And a reply subject across accounts is forgotten after two silent minutes, so a pull must not wait longer than
that without idle heartbeats.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from aura.errors import InvalidRequest
from aura.log.credentials import INBOX

LOG, OUTPUT, CONTENT, HEALTH, LEASES = "AURA_LOG", "AURA_OUTPUT", "AURA_CONTENT", "AURA_HEALTH", "KV_AURA_LEASES"
TICKETS = "KV_AURA_TICKETS"
#: The account of the components we run ourselves; it holds the streams.
CORE = "AURA"
#: The account of workers and onlookers, who are not trusted with reply subjects. It holds nothing.
EDGE = "AURA_EDGE"
STREAMS = (LOG, OUTPUT, CONTENT, HEALTH, LEASES, TICKETS)
#: Users of an ``aura up``; workers come on top, one per worker id.
COMPONENTS = ("gateway", "scheduler", "projector", "admin", "observer")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class Permissions:
    """Subjects a user may publish to and subscribe to; everything else is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shared:
    """A subject that ``CORE`` exports and ``EDGE`` imports under the same name.

    ``service``: ``EDGE`` publishes, ``CORE`` answers (``many`` answers to one request for a pull). Else a stream: ``CORE``
    publishes, ``EDGE`` may subscribe. The permissions of each user narrow this further.
    """

    subject: str
    service: bool
    many: bool = False


SHARED = (
    Shared("cmd.aura.worker.>", service=True),
    Shared("append.output.>", service=True),
    Shared("health.aura.>", service=True),
    Shared(f"$JS.ACK.{LOG}.>", service=True),
    # As a whole: every account has a `$JS.API.>` of its own, which would answer "not enabled" to a narrower import.
    Shared("$JS.API.>", service=True, many=True),
    Shared("$SRV.>", service=True, many=True),
    *(Shared(f"aura.{kind}.>", service=False) for kind in ("job", "model", "session", "system", "output")),
)

#: Tests only: a user who may do anything in the account. ``aura up`` never makes one.
UNRESTRICTED = Permissions(publish=(">",), subscribe=(">",))


def checked_name(kind: str, name: str) -> str:
    """``name`` if it is safe as one subject token. Raises :class:`InvalidRequest`."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(f"a {kind} is 1 to 64 of A-Z a-z 0-9 _ -", field=kind)
    return name


def _api(*calls: str) -> tuple[str, ...]:
    return tuple(f"$JS.API.{call}" for call in calls)


def _reads(*streams: str) -> tuple[str, ...]:
    """Looking at streams message by message: info, direct gets (one, many, by subject) and the leader's get."""
    return tuple(
        subject
        for stream in streams
        for subject in _api(
            f"STREAM.INFO.{stream}",
            f"DIRECT.GET.{stream}",
            f"DIRECT.GET.{stream}.>",
            f"STREAM.MSG.GET.{stream}",
        )
    )


def _consumes(*streams: str) -> tuple[str, ...]:
    """Following streams with consumers of one's own, and flow control. Only for components we start ourselves."""
    calls = ("CREATE.{0}", "CREATE.{0}.>", "DURABLE.CREATE.{0}.*", "INFO.{0}.*", "DELETE.{0}.*", "MSG.NEXT.{0}.*")
    return (
        *(subject for stream in streams for subject in _api(*(f"CONSUMER.{call}".format(stream) for call in calls))),
        *(f"$JS.ACK.{stream}.>" for stream in streams),
        *(f"$JS.FC.{stream}.>" for stream in streams),
    )


def _inbox(user: str) -> str:
    return f"{INBOX}{user}.>"


def gateway() -> Permissions:
    """HTTP and WebSocket, and the command service: the one that writes for everybody who may not write themselves."""
    return Permissions(
        publish=(
            "append.aura.job.>",
            "append.aura.model.>",
            "append.aura.session.>",
            "append.aura.system.key.>",
            "append.aura.system.access_denied",
            "append.output.>",
            "content.aura.>",
            "health.aura.>",
            "lease.aura.renewed",
            # Tickets of browsers: written by one gateway, taken by any, once.
            "$KV.AURA_TICKETS.*",
            f"$JS.API.STREAM.MSG.GET.{TICKETS}",
            *_api("INFO"),
            *_reads(LOG, OUTPUT, CONTENT, HEALTH),
            *_consumes(LOG, OUTPUT, HEALTH),
            # Erasing content: the key message first (secure delete), then the subjects.
            *_api(*(f"STREAM.{call}.{stream}" for stream in (CONTENT, OUTPUT) for call in ("MSG.DELETE", "PURGE"))),
            # Answers to commands: of workers through the server's own reply subjects, of the CLI (`_INBOX`: the nats CLI).
            "_R_.>",
            _inbox("admin"),
            "_INBOX.>",
        ),
        subscribe=("aura.>", "health.aura.>", "cmd.aura.>", "$SRV.>", _inbox("gateway")),
    )


def scheduler() -> Permissions:
    """Appends assignments and lease decisions itself, makes the pools' durables, leads by a lease in the KV bucket."""
    return Permissions(
        publish=(
            "append.aura.job.>",
            "append.aura.model.>",
            "append.aura.system.leader_elected",
            *_api("INFO"),
            *_reads(LOG, HEALTH),
            *_consumes(LOG, HEALTH),
            *_leases("scheduler"),
        ),
        subscribe=("aura.>", "health.aura.>", "lease.aura.>", "$KV.AURA_LEASES.>", _inbox("scheduler")),
    )


def projector() -> Permissions:
    """Reads the log and health, writes Postgres; in the log only what it says about itself."""
    return Permissions(
        publish=(
            *(f"append.aura.system.{event}" for event in ("projection_rebuilt", "alert_raised", "alert_cleared")),
            *_api("INFO"),
            *_reads(LOG, HEALTH),
            *_consumes(LOG, HEALTH),
            *_leases("projector"),
        ),
        subscribe=("aura.>", "health.aura.>", "$KV.AURA_LEASES.>", _inbox("projector")),
    )


def _leases(role: str) -> tuple[str, ...]:
    """Taking the lease of ``role`` (or of a part of it, ``<role>.<part>``) and watching the bucket."""
    return (
        f"$KV.AURA_LEASES.{role}",
        f"$KV.AURA_LEASES.{role}.>",
        *_reads(LEASES),
        *_consumes(LEASES),
    )


def admin() -> Permissions:
    """The supervisor and the CLI: makes the streams, reads all of them, sends commands. Cannot delete, purge or reshape one."""
    return Permissions(
        publish=(
            *_api("INFO", "STREAM.NAMES", "STREAM.LIST"),
            *_api(*(f"STREAM.CREATE.{stream}" for stream in STREAMS)),
            *_reads(*STREAMS),
            *_api(*(f"CONSUMER.{call}.*" for call in ("NAMES", "LIST")), "CONSUMER.INFO.*.*"),
            *_consumes(LOG),
            "cmd.aura.admin.>",
            "$SRV.>",
        ),
        subscribe=("aura.>", "health.aura.>", "lease.aura.>", "$KV.AURA_LEASES.>", _inbox("admin"), "_INBOX.>"),
    )


#: The user of ``aura log accept``, made for one use.
ACCEPT_USER = "log-accept"


def accept_epoch() -> Permissions:
    """Giving the log a new epoch, which is in its configuration. No component has this: it could undo every limit."""
    return Permissions(
        publish=_api(f"STREAM.INFO.{LOG}", f"STREAM.UPDATE.{LOG}"),
        subscribe=(_inbox(ACCEPT_USER),),
    )


def observer() -> Permissions:
    """Looks on: ``nats sub 'aura.job.>'``, reads the log message by message, and asks what services there are (``nats micro ls``). The
    ``nats`` CLI listens for answers on ``_INBOX.>``, which nobody else in ``EDGE`` uses."""
    return Permissions(
        publish=(*_reads(LOG), *(f"$SRV.{verb}{rest}" for verb in ("PING", "INFO", "STATS") for rest in ("", ".>"))),
        subscribe=("aura.>", _inbox("observer"), "_INBOX.>"),
    )


def worker(worker_id: str, models: Iterable[str]) -> Permissions:
    """One worker of some pools. Raises :class:`InvalidRequest` for names that are not one plain subject token."""
    checked_name("worker_id", worker_id)
    pools = [checked_name("model", model) for model in models]
    return Permissions(
        publish=(
            f"cmd.aura.worker.{worker_id}.>",
            "append.output.>",
            # Whether its own write was stored, after a lost acknowledgement. Others' output it could not decrypt.
            f"$JS.API.STREAM.MSG.GET.{OUTPUT}",
            *(
                subject
                for model in pools
                for subject in (
                    f"health.aura.{model}.{worker_id}",
                    f"$JS.API.CONSUMER.MSG.NEXT.{LOG}.pool_{model}",
                    f"$JS.API.CONSUMER.INFO.{LOG}.pool_{model}",
                    f"$JS.ACK.{LOG}.pool_{model}.>",
                )
            ),
        ),
        subscribe=("aura.job.*.*.cancelled", "aura.job.*.*.lease_expired", worker_inbox(worker_id)),
    )


def worker_inbox(worker_id: str) -> str:
    """The subjects of a worker's answers."""
    return _inbox(f"worker.{worker_id}")


def account_of(component: str) -> str:
    """The account in which a component's user lives; workers live in :data:`EDGE`."""
    return EDGE if component == "observer" else CORE


def of_component(name: str) -> Permissions:
    """The permissions of one of :data:`COMPONENTS`."""
    return {"gateway": gateway, "scheduler": scheduler, "projector": projector, "admin": admin, "observer": observer}[
        name
    ]()


def fingerprint() -> str:
    """Names the table above: credentials minted for another one are minted anew at the next start of `aura up`."""
    table = {name: asdict(of_component(name)) for name in COMPONENTS}
    text = json.dumps([table, [asdict(item) for item in SHARED]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
