-- The changing part of many jobs that were created in this batch, as it is at the batch's end.
COPY {schema}.job_states (id, project_id, created_seq, root_job_id, role, kind, status, model, worker, attempt, spent, priority,
       not_before, lease_ttl_s, retention_until, held, purge, events, seq, updated_at, queued_at, assigned_at, claimed_at, assigned_by,
       finished_at, finished_seq, error_code, status_reason, result_bytes, result_digest, output_count, stage_status, state) FROM STDIN (FORMAT csv, ESCAPE '\', NULL 'null')
