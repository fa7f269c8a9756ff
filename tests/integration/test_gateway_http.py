"""The HTTP API against a real server: the life of a job as API.md tells it, reads, content, and the rules every answer follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import httpx
import orjson
import pytest
import pytest_asyncio

from aura.clock import ManualClock
from aura.errors import Unavailable
from aura.gateway.limits import Limits
from tests.support.gateway import DIRECTOR_KEY, World, running

UNKNOWN = "0199c0de-0000-7000-8000-000000000000"


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with running() as made:
        yield made


async def _claimed(world: World) -> str:
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/assign", "employee_ollama")
    await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w1"})
    return job_id


async def test_the_life_of_a_job(world: World) -> None:
    [job_id] = await world.submit()
    assigned = await world.post(f"/jobs/{job_id}/assign", "employee_ollama")
    assert (assigned["job_id"], assigned["assigned_model"]) == (job_id, "employee_ollama")
    claimed = await world.post(f"/jobs/{job_id}/claim?worker_id=w1")
    assert claimed["worker"] == "w1"
    assert claimed["attempt"] == 1
    assert claimed["payload"] == {"n": 0}
    assert (await world.post(f"/jobs/{job_id}/heartbeat", {"attempt": 1}))["cancelled"] is False
    for number, final in ((1, False), (2, True)):
        assert (await world.post(f"/jobs/{job_id}/stream", {"chunk": f"part {number} ", "final": final}))["ok"]
    assert (await world.post(f"/jobs/{job_id}/log", {"level": "INFO", "line": "half\r\n\x1b[31mforged"}))["ok"]
    assert (await world.post(f"/jobs/{job_id}/progress", {"percent": 50, "step": "halfway"}))["ok"]
    await world.post(f"/jobs/{job_id}/stage", {"stage": "build", "status": "done"})
    done = await world.post(f"/jobs/{job_id}/complete", {"success": True, "details": {"answer": 42}, "attempt": 1})
    assert done["status"] == "COMPLETED"

    job = await world.http.get(f"/jobs/{job_id}")
    assert job.json()["status"] == "COMPLETED"
    assert job.headers["etag"] == f'"v{done["seq"]}"'
    assert (await world.http.get(f"/jobs/{job_id}", headers={"if-none-match": job.headers["etag"]})).status_code == 304
    output = await world.http.get(f"/jobs/{job_id}/output")
    assert output.text == "part 1 part 2 "
    assert output.headers["content-type"].startswith("text/plain")
    lines = (
        await world.http.get(f"/jobs/{job_id}/output", headers={"accept": "application/x-ndjson"})
    ).text.splitlines()
    assert len(lines) == 4
    logs = (await world.http.get(f"/jobs/{job_id}/logs", headers={"accept": "text/plain"})).text
    assert logs.count("\n") == 1, "a log line cannot forge another"
    assert "\x1b" not in logs
    assert (await world.http.get(f"/jobs/{job_id}/result")).json()["details"] == {"answer": 42}
    events = (await world.http.get(f"/jobs/{job_id}/events")).json()
    assert [event["type"] for event in events] == [
        "job.created", "job.assigned", "job.claimed", "job.stage_changed", "job.completed",
    ]  # fmt: skip
    assert [job["id"] for job in (await world.http.get("/archives")).json()] == [job_id]


async def test_argument_forms_of_assign_and_claim(world: World) -> None:
    forms = ({"params": {"worker_id": "w"}}, {"json": "w"}, {"json": {"worker_id": "w"}})
    for form in forms:
        [job_id] = await world.submit()
        answer = await world.http.post(f"/jobs/{job_id}/claim", **form)
        assert (answer.status_code, answer.json()["worker"]) == (200, "w")
    [job_id] = await world.submit()
    for form in ({"params": {"assigned_model": "m"}}, {"json": "m"}, {"json": {"assigned_model": "m"}}):
        assert (await world.http.post(f"/jobs/{job_id}/assign", **form)).json()["assigned_model"] == "m"
    twice = await world.http.post(f"/jobs/{job_id}/assign?assigned_model=a", json={"assigned_model": "b"})
    assert twice.status_code == 422


async def test_curl_without_a_content_type_works_and_a_form_in_a_browser_does_not(world: World) -> None:
    [job_id] = await world.submit()
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert (
        await world.http.post(f"/jobs/{job_id}/claim", content=b'{"worker_id":"w"}', headers=form)
    ).status_code == 200
    browser = form | {"origin": world.url}
    answer = await world.http.post(f"/jobs/{job_id}/cancel", content=b'{"reason":""}', headers=browser)
    assert answer.status_code == 415


async def test_conflicts_and_unknown_jobs_name_what_is_wrong(world: World) -> None:
    job_id = await _claimed(world)
    again = await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w2"}, status=409)
    assert again["code"] == "conflict"
    assert again["status_of_job"] == "IN_PROGRESS"
    fenced = await world.post(f"/jobs/{job_id}/heartbeat", {"attempt": 7}, status=409)
    assert fenced["code"] == "fenced"
    missing = await world.post(f"/jobs/{UNKNOWN}/claim", {"worker_id": "w"}, status=404)
    assert missing["code"] == "not_found"
    assert set(missing) >= {"type", "title", "status", "detail", "instance", "code", "trace_id"}
    for path in ("", "/events", "/output", "/logs", "/result", "/explain"):
        assert (await world.http.get(f"/jobs/{UNKNOWN}{path}")).status_code == 404


async def test_problems_also_for_404_405_and_500(world: World) -> None:
    for answer in (await world.http.get("/nothing"), await world.http.delete("/prds")):
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
    assert set((await world.http.delete("/prds")).headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}

    async def explode(*_args: object, **_options: object) -> None:
        raise RuntimeError("secret internals")

    world.queries.stats = explode  # type: ignore[method-assign,assignment]
    broken = await world.http.get("/stats")
    assert broken.status_code == 500
    assert "secret" not in broken.text
    assert broken.json()["code"] == "internal"


async def test_idempotency_key_gives_the_same_answer_and_no_second_event_G2(world: World) -> None:
    key = {"idempotency-key": "k1"}
    body = {"title": "T", "tasks": [{"type": "t"}, {"type": "u"}]}
    first = await world.post("/prds", body, 201, headers=key)
    end = await world.last_seq()
    assert await world.post("/prds", body, 201, headers=key) == first
    assert await world.last_seq() == end
    other = await world.post("/prds", {**body, "title": "Other"}, 422, headers=key)
    assert other["code"] == "idempotency_key_reused"


async def test_a_traceparent_follows_the_job_from_the_request_to_the_worker_and_every_event(world: World) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
    answer = await world.http.post("/prds", json={"title": "T", "tasks": [{}]}, headers=headers)
    assert answer.headers["x-trace-id"] == trace
    job_id = answer.json()["job_ids"][0]
    await world.post(f"/jobs/{job_id}/assign", {"assigned_model": "m"})
    claimed = await world.post(f"/jobs/{job_id}/claim", {"worker_id": "w"})
    assert claimed["traceparent"] == f"00-{trace}-0001{job_id[-12:]}-01"
    await world.post(f"/jobs/{job_id}/complete", {"success": True})
    events = (await world.http.get(f"/jobs/{job_id}/events")).json()
    assert [event["type"] for event in events] == ["job.created", "job.assigned", "job.claimed", "job.completed"]
    assert {event["correlation_id"] for event in events} == {trace}


async def test_lists_filter_and_page(world: World) -> None:
    ids = await world.submit(5)
    await world.post(f"/jobs/{ids[0]}/cancel", {"reason": "no need"})
    cancelled = (await world.http.get("/jobs?status=CANCELLED")).json()
    assert [row["id"] for row in cancelled] == [ids[0]]
    both = (await world.http.get("/jobs?status=CANCELLED,QUEUED")).json()
    assert len(both) == 5
    page = await world.http.get("/jobs?limit=2")
    assert len(page.json()) == 2
    target = page.headers["link"].partition(">")[0][1:]
    assert 'rel="next"' in page.headers["link"]
    assert len((await world.http.get(target)).json()) == 2
    assert (await world.http.get("/jobs?status=NOPE")).status_code == 422
    assert (await world.http.get("/jobs?colour=red")).status_code == 422


async def test_the_root_job_is_derived_from_its_jobs(world: World) -> None:
    answer = await world.post("/prds", {"title": "Root", "tasks": [{}, {}]}, 201)
    root = (await world.http.get(f"/jobs/{answer['root_job_id']}")).json()
    assert root["title"] == "Root"
    assert len(root["jobs"]) == 2
    assert (await world.http.get(f"/prds/{answer['root_job_id']}")).json()["title"] == "Root"


async def test_a_root_id_used_as_a_job_id_is_named_as_such(world: World) -> None:
    root = (await world.post("/prds", {"title": "Root", "tasks": [{}]}, 201))["root_job_id"]
    for path in ("output", "events"):
        assert "root_job_id" in (await world.http.get(f"/jobs/{root}/{path}")).json()["detail"]
    assert "root_job_id" in (await world.post(f"/jobs/{root}/claim", {"worker_id": "w"}, 404))["detail"]
    assert (await world.post(f"/jobs/{UNKNOWN}/claim", {"worker_id": "w"}, 404))["detail"] == "no such job"


async def test_min_seq_waits_bounded_and_as_of_looks_back(world: World) -> None:
    [job_id] = await world.submit()
    created = await world.last_seq()
    await world.post(f"/jobs/{job_id}/cancel")
    assert (await world.http.get(f"/jobs/{job_id}?as_of={created}")).json()["status"] == "QUEUED"
    assert (await world.http.get(f"/jobs/{job_id}?as_of=2020-01-01T00:00:00Z")).status_code == 404
    assert (await world.http.get("/jobs?as_of=99999")).status_code == 422
    assert (await world.http.get(f"/jobs?min_seq={created}")).status_code == 200
    world.queries.caught_up = False
    behind = await world.http.get(f"/jobs?min_seq={created}")
    assert behind.status_code == 503
    assert behind.headers["retry-after"] == "1"


async def test_a_job_that_the_read_model_does_not_have_yet_is_503_and_never_a_false_404(world: World) -> None:
    [job_id] = await world.submit()

    async def missing(*_args: object, **_options: object) -> None:
        return None

    world.queries.get_job = missing  # type: ignore[method-assign]
    world.queries.caught_up = False
    assert (await world.http.get(f"/jobs/{job_id}")).status_code == 503
    assert (await world.http.get(f"/jobs/{UNKNOWN}")).status_code == 404


async def test_events_in_three_media_types(world: World) -> None:
    await world.submit(3)
    flat = (await world.http.get("/events?subject=aura.job.1.>&from=2&to=3")).json()
    assert [event["seq"] for event in flat] == [2, 3]
    lines = await world.http.get("/events?limit=2", headers={"accept": "application/x-ndjson"})
    assert lines.text.count("\n") == 2
    assert "from=3" in lines.headers["link"]
    clouds = await world.http.get("/events", headers={"accept": "application/cloudevents+json"})
    assert clouds.headers["content-type"] == "application/cloudevents-batch+json"
    first = clouds.json()[0]
    assert {"specversion", "id", "source", "type", "subject", "time", "data"} <= set(first)
    assert (await world.http.get("/events", headers={"accept": "image/png"})).status_code == 406
    for bad in ("$JS.API.STREAM.PURGE.X", "aura.>.x", "aura..x", "aura.a b", "x.>"):
        assert (await world.http.get("/events", params={"subject": bad})).status_code == 422


async def test_purge_checks_key_then_archive_then_retention(world: World) -> None:
    job_id = await _claimed(world)
    director = {"x-director-key": DIRECTOR_KEY}
    assert (await world.post(f"/archives/{job_id}/purge", status=403))["code"] == "forbidden"
    wrong = await world.http.post(f"/archives/{UNKNOWN}/purge", headers={"x-director-key": "wrong"})
    assert wrong.status_code == 403
    await world.post(f"/archives/{UNKNOWN}/purge", status=404, headers=director)
    await world.post(f"/archives/{job_id}/purge", status=404, headers=director)
    await world.post(f"/jobs/{job_id}/complete", {"success": True})
    await world.post(f"/archives/{job_id}/purge", status=403, headers=director)


async def test_purge_erases_and_a_hold_prevents_it() -> None:
    async with running(retention_s=0.0) as world:
        job_id = await _claimed(world)
        await world.post(f"/jobs/{job_id}/stream", {"chunk": "secret"})
        await world.post(f"/jobs/{job_id}/complete", {"success": True, "details": {"secret": 1}})
        director = {"x-director-key": DIRECTOR_KEY}
        await world.post(f"/archives/{job_id}/hold", {"reason": "case 7"})
        await world.post(f"/archives/{job_id}/purge", status=409, headers=director)
        await world.post(f"/archives/{job_id}/release", status=403)
        await world.post(f"/archives/{job_id}/release", headers=director)
        assert (await world.post(f"/archives/{job_id}/purge", headers=director))["ok"] is True
        assert (await world.http.get(f"/jobs/{job_id}/result")).status_code == 404
        assert (await world.http.get(f"/jobs/{job_id}/output")).text == ""
        actors = {event["actor"] for event in (await world.http.get(f"/jobs/{job_id}/events")).json()}
        assert "director:configured" in actors


async def test_anybody_may_hold_but_only_the_director_lets_go(world: World) -> None:
    job_id = await _claimed(world)
    await world.post(f"/jobs/{job_id}/complete", {"success": True})
    wrong = {"x-director-key": "wrong"}
    assert (await world.post(f"/archives/{job_id}/hold", status=403, headers=wrong))["code"] == "forbidden"
    await world.post(f"/archives/{job_id}/hold", {"reason": "case 7"})
    for headers in ({}, wrong, {"x-director-key": ""}):
        await world.post(f"/archives/{job_id}/release", status=403, headers=headers)
    await world.post(f"/archives/{job_id}/release", headers={"x-director-key": DIRECTOR_KEY})
    by = {event["type"]: event["actor"] for event in (await world.http.get(f"/jobs/{job_id}/events")).json()}
    assert (by["archive.held"], by["archive.hold_released"]) == ("anonymous", "director:configured")


async def test_without_a_director_holds_end_without_a_key() -> None:
    async with running(director_api_key=None) as world:
        job_id = await _claimed(world)
        await world.post(f"/jobs/{job_id}/complete", {"success": True})
        await world.post(f"/archives/{job_id}/hold")
        await world.post(f"/archives/{job_id}/release", status=403, headers={"x-director-key": "guess"})
        await world.post(f"/archives/{job_id}/release")


async def test_without_a_configured_key_purge_is_refused() -> None:
    async with running(director_api_key=None) as world:
        job_id = await _claimed(world)
        for headers in ({}, {"x-director-key": ""}, {"x-director-key": "None"}):
            assert (await world.http.post(f"/archives/{job_id}/purge", headers=headers)).status_code == 403


async def test_bulk_names_ids_first_and_then_acts_on_exactly_those(world: World) -> None:
    ids = await world.submit(4)
    dry = await world.post("/jobs/bulk", {"action": "cancel", "filter": {"status": ["QUEUED"]}, "dry_run": True})
    assert set(dry["ids"]) == set(ids)
    assert dry["seq"] == await world.last_seq()
    answer = await world.http.post("/jobs/bulk", json={"action": "cancel", "ids": [*dry["ids"][:2], UNKNOWN]})
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    assert [line["ok"] for line in map(_json, answer.text.splitlines())] == [True, True, False]
    assert len((await world.http.get("/jobs?status=CANCELLED")).json()) == 2


async def test_next_gives_a_claimed_job_or_204(world: World) -> None:
    [job_id] = await world.submit()
    await world.post(f"/jobs/{job_id}/assign", "pool")
    body = {"worker_id": "w", "wait_s": 0}
    claimed = await world.post("/models/pool/next", body)
    assert (claimed["job_id"], claimed["attempt"]) == (job_id, 1)
    assert (await world.http.post("/models/pool/next", json=body)).status_code == 204


async def test_model_heartbeat_registers_and_pause_and_resume(world: World) -> None:
    assert (await world.post("/models/llm/heartbeat", {"uptime": 1, "status": "ok"}))["ok"] is True
    assert (await world.post("/models/llm/pause"))["ok"] is True
    assert (await world.post("/models/llm/resume"))["ok"] is True
    await world.post("/models/never/pause", status=404)
    events = (await world.http.get("/events?subject=aura.model.llm.>")).json()
    assert [event["type"] for event in events] == ["model.registered", "model.paused", "model.resumed"]


async def test_health_ready_version_metrics(world: World) -> None:
    assert (await world.http.get("/health")).json() == {"status": "ok"}
    assert (await world.http.get("/livez")).status_code == 200
    assert (await world.http.get("/ready")).json() == {"ready": True}
    assert (await world.http.get("/readyz?verbose")).json()["checks"]["log"] == "ok"
    assert (await world.http.get("/version")).json()["epoch"] == "memory"
    metrics = (await world.http.get("/metrics")).text
    assert 'route="/health"' in metrics
    assert "aura_read_models_up 1.0" in metrics
    world.queries.broken = Unavailable("the database does not answer")
    broken = await world.http.get("/ready")
    assert (broken.status_code, broken.json()["checks"]) == (503, {"read_models": "the database does not answer"})


async def test_metrics_tell_the_jobs_and_nothing_stale_of_them() -> None:
    clock = ManualClock()
    async with running(clock=clock) as world:
        await world.submit(3)
        assert 'aura_jobs{status="QUEUED"} 3.0' in (await world.http.get("/metrics")).text
        world.queries.broken = Unavailable("the database does not answer")
        clock.advance(60)
        broken = (await world.http.get("/metrics")).text
        assert "aura_read_models_up 0.0" in broken
        assert "aura_jobs{" not in broken


async def test_too_many_commands_at_once_are_refused_not_queued_G12() -> None:
    async with running(limits=Limits(waiting=1)) as world:
        body = {"worker_id": "w", "wait_s": 30}
        both = {asyncio.ensure_future(world.http.post("/models/pool/next", json=body)) for _ in range(2)}
        [refused], [waiting] = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        answer = refused.result()
        assert (answer.status_code, answer.json()["code"]) == (429, "overloaded")
        assert answer.headers["retry-after"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)


async def test_an_answer_that_is_being_written_keeps_its_place_and_a_stalled_one_loses_it_G12() -> None:
    async with running(limits=Limits(reads=1, stall_s=0.3)) as world:
        job_id = await _claimed(world)
        for _ in range(40):
            await world.post(f"/jobs/{job_id}/stream", {"chunk": "x" * 200_000})
        reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port, limit=1_024)
        writer.write(f"GET /jobs/{job_id}/output HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n".encode())
        await reader.readexactly(15)  # the answer has begun; nobody reads the rest
        refused = await world.http.get("/jobs")
        assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
        async with asyncio.timeout(10):
            while (await world.http.get("/jobs")).status_code != 200:
                await asyncio.sleep(0)
        writer.transport.abort()


async def test_log_lines_as_json_are_one_array(world: World) -> None:
    job_id = await _claimed(world)
    assert (await world.http.get(f"/jobs/{job_id}/logs")).json() == []
    for number in range(3):
        await world.post(f"/jobs/{job_id}/log", {"line": str(number)})
    found = await world.http.get(f"/jobs/{job_id}/logs")
    assert found.headers["content-type"] == "application/json"
    assert [record["line"] for record in found.json()] == ["0", "1", "2"]


async def test_a_time_means_the_last_event_stored_until_then(world: World) -> None:
    ids = await world.submit(3)
    at = [(await world.store.get(seq)) for seq in (1, 2, 3)]
    await world.post(f"/jobs/{ids[0]}/cancel")
    for recorded in at:
        assert recorded is not None
    exact = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at[2].stored_at_ns // 1_000 + 1)  # type: ignore[union-attr]
    found = (await world.http.get("/jobs", params={"as_of": exact.isoformat()})).json()
    assert {row["status"] for row in found} == {"QUEUED"}
    assert len(found) == 3
    later = await world.http.get(f"/jobs/{ids[0]}", params={"as_of": "9999-12-31T23:59:59Z"})
    assert later.json()["status"] == "CANCELLED"
    for bad in ("9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z"):
        assert (await world.http.get("/jobs", params={"as_of": bad})).status_code == 422
    world.queries.caught_up = False
    assert (await world.http.get("/jobs", params={"as_of": exact.isoformat()})).status_code == 503


async def test_a_client_that_writes_before_it_reads_sees_why_its_body_is_refused(world: World) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", world.service.port)
    size = 8 * 1024 * 1024
    head = f"POST /prds HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n\r\n"
    writer.write(head.encode() + b" " * size)
    async with asyncio.timeout(10):
        await writer.drain()
        assert (await reader.readline()).split()[1] == b"413"
    writer.close()


async def test_what_is_compressed_or_not_utf8_is_refused(world: World) -> None:
    body = b'{"title":"T","tasks":[{}]}'
    for headers in (
        {"content-encoding": "gzip", "content-type": "application/json"},
        {"content-type": "application/json; charset=utf-16"},
    ):
        assert (await world.http.post("/prds", content=body, headers=headers)).status_code == 415
    fine = {"content-type": 'application/json; charset="UTF-8"'}
    assert (await world.http.post("/prds", content=body, headers=fine)).status_code == 201


def _json(text: str) -> dict[str, object]:
    found: dict[str, object] = orjson.loads(text)
    return found


async def test_a_keyed_post_is_answered_once_and_the_key_is_for_one_request_G2(world: World) -> None:
    """Also where the log does not remember the key: models, heartbeats, bulk actions."""
    await world.post("/models/m1/heartbeat", {"status": "ok"})
    before = len((await world.http.get("/events?limit=1000")).json())

    async def post(path: str, body: object, key: str) -> httpx.Response:
        return await world.http.post(path, json=body, headers={"idempotency-key": key})

    paused = await post("/models/m1/pause", {"reason": "a"}, "k1")
    await post("/models/m1/resume", {}, "k2")
    again = await post("/models/m1/pause", {"reason": "a"}, "k1")
    assert (again.status_code, again.content) == (200, paused.content)
    assert (await post("/models/m1/pause", {"reason": "b"}, "k1")).status_code == 422
    assert len((await world.http.get("/events?limit=1000")).json()) == before + 2, "the repeat did not pause it again"

    first, second = [(await world.submit())[0] for _ in range(2)]
    bulk = await post("/jobs/bulk", {"action": "cancel", "ids": [first]}, "k3")
    assert (await post("/jobs/bulk", {"ids": [first], "action": "cancel"}, "k3")).text == bulk.text
    assert len((await world.http.get(f"/jobs/{first}/events")).json()) == 2
    assert (await post("/jobs/bulk", {"action": "cancel", "ids": [second]}, "k3")).json()[
        "code"
    ] == "idempotency_key_reused"
    assert (await world.http.get(f"/jobs/{second}")).json()["status"] == "QUEUED"

    beat = await post("/models/m1/heartbeat", {"status": "ok", "uptime": 1}, "k4")
    await world.post("/models/m1/pause", {})
    assert (await post("/models/m1/heartbeat", {"uptime": 1, "status": "ok"}, "k4")).content == beat.content
    assert (await post("/models/m1/heartbeat", {"status": "ok", "uptime": 2}, "k4")).status_code == 422


async def test_a_repeat_that_meets_the_first_one_waits_for_it(world: World) -> None:
    await world.post("/models/m1/heartbeat", {"status": "ok"})
    before = len((await world.http.get("/events?limit=1000")).json())

    async def pause(reason: str) -> httpx.Response:
        return await world.http.post("/models/m1/pause", json={"reason": reason}, headers={"idempotency-key": "k"})

    *same, other = await asyncio.gather(*(pause("a") for _ in range(4)), pause("b"))
    assert {answer.status_code for answer in same} == {200}
    assert len({answer.content for answer in same}) == 1
    assert other.status_code == 422
    assert len((await world.http.get("/events?limit=1000")).json()) == before + 1


async def test_deep_json_is_refused_with_a_key_as_without(world: World) -> None:
    deep = b'{"reason":' + b"[" * 300 + b"]" * 300 + b"}"
    headers = {"content-type": "application/json", "idempotency-key": "k"}
    await world.post("/models/m1/heartbeat", {"status": "ok"})
    assert (await world.http.post("/models/m1/pause", content=deep, headers=headers)).status_code == 422
    assert (
        await world.http.post("/models/m1/pause", json={}, headers={"idempotency-key": "k" * 300})
    ).status_code == 422


async def test_a_repeated_heartbeat_renews_and_tells_of_a_cancel(world: World) -> None:
    job_id = await _claimed(world)
    keyed = {"idempotency-key": "k"}
    first = await world.http.post(f"/jobs/{job_id}/heartbeat", json={"attempt": 1}, headers=keyed)
    assert (await world.http.post(f"/jobs/{job_id}/heartbeat", json={"attempt": 1}, headers=keyed)).text == first.text
    await world.post(f"/jobs/{job_id}/cancel", {})
    told = await world.http.post(f"/jobs/{job_id}/heartbeat", json={"attempt": 1}, headers=keyed)
    assert told.json()["cancelled"], "the first answer is no longer true"


async def test_a_failed_request_does_not_use_up_its_key(world: World) -> None:
    keyed = {"idempotency-key": "k"}
    [job_id] = await world.submit()
    assert (await world.http.post(f"/jobs/{job_id}/retry", json={}, headers=keyed)).status_code == 409
    await world.post(f"/jobs/{job_id}/cancel", {})
    assert (await world.http.post(f"/jobs/{job_id}/retry", json={}, headers=keyed)).status_code == 200


async def test_min_seq_is_taken_by_every_read_and_waits_for_the_log(world: World) -> None:
    job_id = await _claimed(world)
    done = await world.post(f"/jobs/{job_id}/complete", {"success": True, "details": {}})
    for path in ("events", "output", "logs", "result"):
        answer = await world.http.get(f"/jobs/{job_id}/{path}?min_seq={done['seq']}")
        assert answer.status_code == 200, answer.text
    assert (await world.http.get(f"/jobs/{job_id}/result")).json()["details"] == {}, "an empty result is a result"
    asked = asyncio.ensure_future(world.http.get(f"/events?from={done['seq'] + 1}&min_seq={done['seq'] + 1}"))
    await asyncio.sleep(0.05)
    assert not asked.done()
    await world.submit()
    assert len((await asked).json()) == 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("complete", {"success": "yes"}),
        ("complete", {"success": 1}),
        ("complete", {"success": True, "attempt": "1"}),
        ("complete", {"success": True, "attempt": True}),
        ("progress", {"percent": "50"}),
        ("stream", {"chunk": "x", "final": "yes"}),
    ],
)
async def test_reports_are_not_taken_for_what_they_resemble(world: World, path: str, body: dict[str, object]) -> None:
    job_id = await _claimed(world)
    assert (await world.http.post(f"/jobs/{job_id}/{path}", json=body)).status_code == 422
