-- The archive's rows of jobs that were created in the same batch.
COPY {schema}.archives (id, project_id, closed_seq, final_status, archived_at, retention_until, role, model, attempt, held, purge,
       purge_requested_at, purged_at, purged_by, purge_reason, purged_bytes, purged_stores, seq) FROM STDIN (FORMAT csv, ESCAPE '\', NULL 'null')
