-- Heartbeats of the last 24 hours (as long as their stream keeps them), and the newest of each worker.
CREATE TABLE {schema}.heartbeats (
    seq         bigint      PRIMARY KEY,
    model       text        NOT NULL,
    worker      text        NOT NULL,
    reported_at timestamptz NOT NULL,
    stored_ns   bigint      NOT NULL,
    status      text        NOT NULL,
    slots       integer     NOT NULL,
    interval_s  double precision,
    payload     json        NOT NULL,
    in_flight   json        NOT NULL
);
CREATE TABLE {schema}.workers (
    model       text        NOT NULL,
    worker      text        NOT NULL,
    seq         bigint      NOT NULL,
    reported_at timestamptz NOT NULL,
    stored_ns   bigint      NOT NULL,
    status      text        NOT NULL,
    slots       integer     NOT NULL,
    interval_s  double precision,
    payload     json        NOT NULL,
    in_flight   json        NOT NULL,
    PRIMARY KEY (model, worker)
) WITH (fillfactor = 50);
