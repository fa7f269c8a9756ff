-- Split by how often a value changes: what `job.created` said is written once (so its wide row and the title index never
-- move), what later events change is narrow. fillfactor leaves room for the next version of a row on its page.

CREATE TABLE {schema}.job_facts (
    id              uuid        PRIMARY KEY,
    project_id      integer     NOT NULL,
    created_seq     bigint      NOT NULL,
    created_at      timestamptz NOT NULL,
    actor           text        NOT NULL,
    root_job_id     uuid        NOT NULL,
    idx             integer     NOT NULL,
    count           integer     NOT NULL,
    title           text        NOT NULL,
    prd_title       text        NOT NULL,
    name            text,
    task_type       text        NOT NULL,
    role            text        NOT NULL,
    labels          json,
    subject         text,
    stages          json,
    depends_on      uuid[],
    session_id      text,
    max_attempts    integer     NOT NULL,
    timeout_s       double precision,
    queue_timeout_s double precision,
    run_at          timestamptz,
    concurrency_key text,
    input_bytes     bigint
);

CREATE TABLE {schema}.job_states (
    id              uuid        PRIMARY KEY,
    project_id      integer     NOT NULL,
    created_seq     bigint      NOT NULL,
    root_job_id     uuid        NOT NULL,
    role            text        NOT NULL,
    kind            integer     NOT NULL,   -- hash of (status, role, model): what filters look up
    status          text        NOT NULL,
    model           text,
    worker          text,
    attempt         integer     NOT NULL,
    spent           integer     NOT NULL,
    priority        smallint    NOT NULL,
    not_before      timestamptz,
    lease_ttl_s     double precision,
    retention_until timestamptz,
    held            boolean     NOT NULL,
    purge           text        NOT NULL,
    events          integer     NOT NULL,
    seq             bigint      NOT NULL,   -- the entity's last event: the expected sequence of the next command
    updated_at      timestamptz NOT NULL,
    queued_at       timestamptz,
    assigned_at     timestamptz,
    claimed_at      timestamptz,
    assigned_by     text,                   -- the policy of the last assignment
    finished_at     timestamptz,
    finished_seq    bigint,
    error_code      text,
    status_reason   text,
    result_bytes    bigint,
    result_digest   text,
    output_count    bigint,
    stage_status    jsonb       NOT NULL,
    state           text        NOT NULL    -- the decider state carried by the last event (JSON; text is not parsed again)
) WITH (fillfactor = 70);

CREATE TABLE {schema}.prds (
    root_job_id uuid        PRIMARY KEY,
    project_id  integer     NOT NULL,
    first_seq   bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    title       text        NOT NULL,
    count       integer     NOT NULL,
    queued      integer     NOT NULL DEFAULT 0,
    assigned    integer     NOT NULL DEFAULT 0,
    in_progress integer     NOT NULL DEFAULT 0,
    submitted   integer     NOT NULL DEFAULT 0,
    completed   integer     NOT NULL DEFAULT 0,
    failed      integer     NOT NULL DEFAULT 0,
    cancelled   integer     NOT NULL DEFAULT 0
) WITH (fillfactor = 70);

-- How many jobs are of each kind now, in all and per project ('' = no model). Rows at 0 are as good as absent.
CREATE TABLE {schema}.job_kinds (
    status text, role text, model text, kind integer NOT NULL, n bigint NOT NULL,
    PRIMARY KEY (status, role, model)
) WITH (fillfactor = 50);
CREATE TABLE {schema}.job_counts (
    project_id integer, status text, role text, model text, kind integer NOT NULL, n bigint NOT NULL,
    PRIMARY KEY (project_id, status, role, model)
) WITH (fillfactor = 70);
-- By how much, per block of 2^14 sequences: a sum up to a block gives the counts of any past moment.
CREATE TABLE {schema}.count_deltas (
    block integer, project_id integer, status text, role text, model text, n bigint NOT NULL,
    PRIMARY KEY (block, project_id, status, role, model)
) WITH (fillfactor = 70);
-- Jobs created and closed per minute of store time.
CREATE TABLE {schema}.job_throughput (
    minute timestamptz, project_id integer, model text, outcome text, n bigint NOT NULL,
    PRIMARY KEY (minute, project_id, model, outcome)
) WITH (fillfactor = 70);
