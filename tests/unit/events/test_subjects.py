"""Subjects are built and parsed in one place, and no user text becomes a token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidRequest
from aura.events import subjects
from aura.events.catalogue import CATALOGUE

JOB = "0199c0de-0000-7000-8000-000000000001"
BAD_NAMES = [
    "*", ">", "a.b", "$JS.API.STREAM.PURGE.X", " ", "a b", "\t", "a\r\nb", "a\0b", "\u202eabc", "x" * 5_000, "", "x" * 65, "ü",
    None, 7, ["a"],
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_bounce(name: object) -> None:
    with pytest.raises(InvalidRequest):
        subjects.check_name(name, "worker_id")
    with pytest.raises(InvalidRequest):
        subjects.check_job_id(name)


@pytest.mark.parametrize("project", [0, -1, 2**31, True, "1", 1.5, None, "*"])
def test_bad_projects_bounce(project: object) -> None:
    with pytest.raises(InvalidRequest):
        subjects.check_project(project)


@pytest.mark.parametrize("type_", [name for name in CATALOGUE if name.startswith(("job.", "archive."))])
def test_job_subjects_round_trip(type_: str) -> None:
    model = "m" if type_ == "job.assigned" else None
    subject = subjects.job_event(7, JOB, type_, model=model)
    assert subjects.parse(subject) == subjects.Subject("job", 7, JOB, type_, model)
    assert subject.startswith(subjects.job_guard(7, JOB).removesuffix(">"))


@given(st.text(max_size=80))
def test_parse_never_accepts_what_it_would_not_build(text: str) -> None:
    try:
        parsed = subjects.parse(text)
    except ValueError:
        return
    assert parsed.kind in ("job", "model", "session", "system")


def test_the_other_subjects_round_trip() -> None:
    assert subjects.parse(subjects.model_event("m", "model.online")).type == "model.online"
    assert subjects.parse(subjects.session_event(1, "s", "session.started")).entity == "s"
    assert subjects.parse(subjects.system_event("system.alert_raised")).type == "system.alert_raised"
    assert subjects.parse_output(subjects.output(1, JOB, 2, "log")) == subjects.OutputSubject(1, JOB, 2, "log")
    assert subjects.append_subject("aura.model.m.online") == "append.aura.model.m.online"
