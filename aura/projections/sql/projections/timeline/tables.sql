-- One row per event of the log: the state of its entity after it. As-of is "the last row of each entity at or before a
-- sequence". The event's own bytes stay in the log (a direct get by sequence costs 0.2 ms; a copy here would double the
-- write-ahead log and the disk), so a row has what is needed to find, order, filter and date events.
CREATE TABLE {schema}.timeline (
    seq        bigint      PRIMARY KEY,
    kind       text        NOT NULL,
    entity     text        NOT NULL,
    project_id integer,
    type       text        NOT NULL,
    stored_ns  bigint      NOT NULL,
    ts         timestamptz NOT NULL,
    actor      text        NOT NULL,
    state      text                     -- JSON; as text it is not parsed again
);
-- The earliest store time in each block of 2^14 sequences: finds the last sequence at or before a time exactly, even when
-- the server's clock has jumped, without an index over every event.
CREATE TABLE {schema}.timeline_blocks (
    block         integer PRIMARY KEY,
    min_stored_ns bigint  NOT NULL
) WITH (fillfactor = 50);
