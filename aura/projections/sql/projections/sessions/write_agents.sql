-- An agent that started in this batch (it has a started_seq) begins a new row; else its end is added to the row that is there.
INSERT INTO {schema}.session_agents AS a
SELECT * FROM json_to_recordset(%(rows)s::json) AS i(
       project_id integer, session_id text, agent text, attempt integer, status text, started_at timestamptz,
       ended_at timestamptz, duration_ms bigint, error_code text, message text, output_bytes bigint, output_digest text,
       output_part text, started_seq bigint, seq bigint)
ON CONFLICT (project_id, session_id, agent) DO UPDATE SET
    attempt = excluded.attempt, status = excluded.status, ended_at = excluded.ended_at, duration_ms = excluded.duration_ms,
    error_code = excluded.error_code, message = excluded.message, output_bytes = excluded.output_bytes,
    output_digest = excluded.output_digest, output_part = excluded.output_part,
    started_at = coalesce(excluded.started_at, a.started_at), started_seq = coalesce(excluded.started_seq, a.started_seq),
    seq = excluded.seq
