-- One row per session of an agent workflow, and one per agent with its newest run. What agents hand in is content of the session's job;
-- here is where it lies.
CREATE TABLE {schema}.sessions (
    project_id   integer     NOT NULL,
    session_id   text        NOT NULL,
    workflow     text        NOT NULL,
    job_id       uuid        NOT NULL,
    status       text        NOT NULL,
    attempt      integer     NOT NULL,
    input_bytes  bigint,
    error_code   text,
    message      text,
    ended_by     text,
    reason       text,
    output_bytes bigint,
    started_at   timestamptz,
    ended_at     timestamptz,
    updated_at   timestamptz NOT NULL,
    started_seq  bigint,
    seq          bigint      NOT NULL,
    state        json        NOT NULL,
    PRIMARY KEY (project_id, session_id)
) WITH (fillfactor = 70);
CREATE TABLE {schema}.session_agents (
    project_id    integer     NOT NULL,
    session_id    text        NOT NULL,
    agent         text        NOT NULL,
    attempt       integer     NOT NULL,
    status        text        NOT NULL,
    started_at    timestamptz,
    ended_at      timestamptz,
    duration_ms   bigint,
    error_code    text,
    message       text,
    output_bytes  bigint,
    output_digest text,
    output_part   text,
    started_seq   bigint,
    seq           bigint      NOT NULL,
    PRIMARY KEY (project_id, session_id, agent)
) WITH (fillfactor = 70);
