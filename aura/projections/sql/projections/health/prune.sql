-- What the stream no longer holds, up to a first sequence; a worker goes with its last heartbeat.
WITH gone AS (DELETE FROM {schema}.heartbeats WHERE seq < %(first_seq)s)
DELETE FROM {schema}.workers WHERE seq < %(first_seq)s
