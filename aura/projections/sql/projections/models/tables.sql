CREATE TABLE {schema}.models (
    model         text        PRIMARY KEY,
    status        text        NOT NULL,
    slots         integer     NOT NULL,
    roles         json        NOT NULL,
    paused        boolean     NOT NULL,
    labels        json,
    reason        text,
    last_seen     timestamptz,
    registered_at timestamptz,
    updated_at    timestamptz NOT NULL,
    seq           bigint      NOT NULL,
    state         json        NOT NULL
) WITH (fillfactor = 70);
