"""The carried form of a job's state: small enough to remember the promised keys (G2), and readable in the forms of older events."""

from __future__ import annotations

import orjson
import pytest
from msgspec.structs import replace

from aura.domain import job_state
from aura.domain.job_state import KEPT_KEYS, MAX_STATE_BYTES, JobState, JobStatus, seen_key, short_holder
from aura.events import catalogue as e

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
#: As far as ten years of 30 events a second.
FIRST_SEQ = 9_999_999_980
TYPICAL = JobState(
    status=JobStatus.IN_PROGRESS,
    role="Employee",
    attempt=2,
    model="m" * 20,
    worker="w" * 24,
    holder="h" * 24,
    lease_ttl_s=60.0,
    count=12,
    trace=TRACE,
)
CLOSED = replace(
    TYPICAL, status=JobStatus.COMPLETED, lease_ttl_s=None, retention_until="2026-03-01T12:00:00.000000Z", spent=1
)


def with_keys(state: JobState, count: int = KEPT_KEYS) -> JobState:
    for number in range(count):
        state = state.remembering(seen_key(f"{number}" * 11, "b" * 11, FIRST_SEQ + number))
    return job_state.fitting(state)


@pytest.mark.parametrize("state", [TYPICAL, CLOSED], ids=["in progress", "closed"])
def test_the_last_eight_keys_fit_for_typical_names_G2(state: JobState) -> None:
    remembering = with_keys(state, KEPT_KEYS + 2)
    assert [seen.seq for seen in remembering.keys] == [FIRST_SEQ + 2 + number for number in range(KEPT_KEYS)]
    carried = orjson.dumps(job_state.to_json(remembering))
    assert len(carried) <= MAX_STATE_BYTES
    assert job_state.from_json(orjson.loads(carried)) == remembering


@pytest.mark.parametrize(("state", "kept"), [(TYPICAL, 4), (CLOSED, 3)], ids=["in progress", "closed"])
def test_of_names_of_64_characters_the_last_few_keys_remain(state: JobState, kept: int) -> None:
    """role, model and worker of 64 characters leave room for four, three of a closed job; a holder of any length is at most 24."""
    long = replace(state, role="r" * 64, model="m" * 64, worker="w" * 64, holder=short_holder("h" * 64))
    assert [seen.seq for seen in with_keys(long).keys] == [FIRST_SEQ + number for number in range(8 - kept, 8)]


def test_the_trace_is_carried_short_and_read_in_either_form() -> None:
    flat = job_state.to_json(TYPICAL)
    assert len(flat["trace"]) == 22
    assert job_state.from_json(flat) == TYPICAL
    assert job_state.from_json(flat | {"trace": TRACE}) == TYPICAL
    assert (job_state.trace_of(flat["trace"]), job_state.trace_of(TRACE), job_state.trace_of(None)) == (
        TRACE, TRACE, None,
    )  # fmt: skip


def test_a_long_holder_is_its_hash_wherever_it_comes_from() -> None:
    """In the fold, in the carried state, and in the carried state of an older event: or the lease would have two holders."""
    owner = "operator:0199c000-0000-7000-8000-000000000001"
    short = short_holder(owner)
    assert short is not None
    assert len(short) <= 24
    assert short_holder(short) == short
    assert short_holder(owner + "x") != short
    assert (short_holder(None), short_holder("h" * 24)) == (None, "h" * 24)
    from aura.domain.job import evolve

    claimed = evolve(TYPICAL, e.JobClaimed(worker_id="w", attempt=3, lease_ttl_s=10, holder=owner))
    assert claimed.holder == short
    old = job_state.to_json(claimed) | {"holder": owner}
    assert job_state.from_json(old) == job_state.from_json(job_state.to_json(claimed)) == claimed


def test_a_key_is_known_by_the_hash_it_was_used_with_and_by_no_other() -> None:
    old = job_state.from_json(job_state.to_json(TYPICAL) | {"keys": ["abcdefghijk.lmnopqrstuv.7"]})
    assert old is not None
    seen = old.key_seen("abcdefghijk")
    assert seen is not None
    assert (seen.seq, seen.of_request("lmnopqrstuv"), seen.of_request("lmnopXrstuv")) == (7, True, False)
    assert old.key_seen("abcdefgXijk") is None
    assert old == TYPICAL.remembering(seen_key("abcdefghijk", "lmnopqrstuv", 7))
