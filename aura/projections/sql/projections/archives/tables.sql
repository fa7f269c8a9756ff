-- A closed job is in the archive from its terminal event until it is retried; a purged one leaves its tombstone.
CREATE TABLE {schema}.archives (
    id                 uuid        PRIMARY KEY,
    project_id         integer     NOT NULL,
    closed_seq         bigint      NOT NULL,
    final_status       text        NOT NULL,
    archived_at        timestamptz NOT NULL,
    retention_until    timestamptz,
    role               text        NOT NULL,
    model              text,
    attempt            integer     NOT NULL,
    held               boolean     NOT NULL,
    purge              text        NOT NULL,
    purge_requested_at timestamptz,
    purged_at          timestamptz,
    purged_by          text,
    purge_reason       text,
    purged_bytes       bigint,
    purged_stores      json,
    seq                bigint      NOT NULL
) WITH (fillfactor = 70);
