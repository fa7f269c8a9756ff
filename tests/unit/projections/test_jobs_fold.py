"""Everything that a job's first event may say is read by the fold of jobs, alone and in a batch that is copied."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from aura.domain import job_state
from aura.domain.job import evolve
from aura.events import envelope
from aura.events.catalogue import ContentRef, JobCreated, KeyRef
from aura.log.store import Recorded
from aura.projections import rows
from aura.projections.decoding import decode
from aura.projections.jobs import JobsFold

JOB = "00000000-0000-7000-8000-{:012d}"
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
NAME = st.text("abcXYZ019_-", min_size=1, max_size=12)
CREATED = st.builds(
    JobCreated,
    root_job_id=st.just(JOB.format(999)),
    index=st.integers(0, 999),
    count=st.integers(1, 1_000),
    title=TEXT,
    prd_title=TEXT,
    name=st.none() | NAME,
    task_type=NAME,
    role=NAME,
    priority=st.integers(0, 9),
    labels=st.dictionaries(NAME, NAME, max_size=3) | st.lists(NAME, max_size=3),
    subject=st.none() | NAME,
    stages=st.lists(NAME, unique=True, max_size=3),
    depends_on=st.lists(st.integers(0, 99).map(JOB.format), max_size=3),
    session_id=st.none() | NAME,
    max_attempts=st.integers(1, 100),
    timeout_s=st.none() | st.floats(0.1, 1e6),
    queue_timeout_s=st.none() | st.floats(0.1, 1e6),
    run_at=st.none() | st.just("2026-01-01T00:00:00.000000Z"),
    concurrency_key=st.none() | NAME,
    idempotency_key=st.none() | st.builds(KeyRef, key=NAME, body=NAME),
    trace_id=st.none() | st.just("0af7651916cd43dd8448eb211c80319c"),
    input=st.builds(ContentRef, bytes=st.integers(0, 10**6), digest=st.just("sha256:" + "0" * 64)),
)


def recorded(number: int, created: JobCreated) -> Recorded:
    job_id = JOB.format(number)
    stamp = envelope.Stamp("2026-01-01T00:00:00.000000Z", "user:x", "c", "d")
    body = envelope.seal(
        created,
        event_id=JOB.format(number + 1_000),
        stamp=stamp,
        ids={"project_id": 1, "job_id": job_id},
        state=job_state.to_json(evolve(None, created)),
    )
    return Recorded(number + 1, f"aura.job.1.{job_id}.created", 10**18, body)


@given(st.lists(CREATED, min_size=1, max_size=6))
def test_g18_what_the_catalogue_allows_is_no_poison(all_created: list[JobCreated]) -> None:
    fold = JobsFold(1)
    for number, created in enumerate(all_created):
        event = decode(recorded(number, created))
        assert event.poison is None
        fold.add(event)
    [write, _] = fold.writes()
    made = orjson.loads(orjson.dumps(write.rows))
    for row, created in zip(made, all_created, strict=True):
        assert (row["labels"] or type(created.labels)()) == created.labels
        assert (row["stages"] or []) == created.stages
        assert row["title"] == created.title


def test_many_of_them_are_copied() -> None:
    fold = JobsFold(1)
    for number in range(rows.COPY_FROM):
        fold.add(decode(recorded(number, _listed())))
    assert [write.copy is not None for write in fold.writes()] == [False, True, True, False]


def _listed() -> JobCreated:
    ref = ContentRef(bytes=1, digest="sha256:" + "0" * 64)
    return JobCreated(
        root_job_id=JOB.format(999), index=0, count=1, title="t", task_type="x", role="r", labels=["a", "b"], input=ref
    )
