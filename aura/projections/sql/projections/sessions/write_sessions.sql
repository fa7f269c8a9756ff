-- NULL means "as it was", '' and -1 "now empty". A session that runs (again) has not ended; it stays where it first began.
INSERT INTO {schema}.sessions AS s
SELECT project_id, session_id, workflow, job_id, status, attempt, input_bytes, nullif(error_code, ''), nullif(message, ''),
       nullif(ended_by, ''), nullif(reason, ''), nullif(output_bytes, -1), started_at, ended_at, updated_at, started_seq, seq, state
  FROM json_to_recordset(%(rows)s::json) AS i(
       project_id integer, session_id text, workflow text, job_id uuid, status text, attempt integer, input_bytes bigint,
       error_code text, message text, ended_by text, reason text, output_bytes bigint, started_at timestamptz,
       ended_at timestamptz, updated_at timestamptz, started_seq bigint, seq bigint, state json)
ON CONFLICT (project_id, session_id) DO UPDATE SET
    workflow = excluded.workflow, job_id = excluded.job_id, status = excluded.status, attempt = excluded.attempt,
    input_bytes = coalesce(s.input_bytes, excluded.input_bytes),
    error_code = excluded.error_code, message = excluded.message, ended_by = excluded.ended_by, reason = excluded.reason,
    output_bytes = excluded.output_bytes, ended_at = excluded.ended_at,
    started_at = coalesce(s.started_at, excluded.started_at), started_seq = coalesce(s.started_seq, excluded.started_seq),
    updated_at = excluded.updated_at, seq = excluded.seq, state = excluded.state
