-- Jobs created in this batch, as they are at its end, and their PRDs' rows; many of them are copied (copy_facts, copy_states).
WITH created AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS c(
        id uuid, project_id integer, created_seq bigint, created_at timestamptz, actor text, root_job_id uuid, idx integer,
        count integer, title text, prd_title text, name text, task_type text, role text, labels json, subject text,
        stages json, depends_on uuid[], session_id text, max_attempts integer, timeout_s double precision,
        queue_timeout_s double precision, run_at timestamptz, concurrency_key text, input_bytes bigint,
        kind integer, status text, model text, worker text, attempt integer, spent integer, priority smallint,
        not_before timestamptz, lease_ttl_s double precision, retention_until timestamptz, held boolean, purge text,
        events integer, seq bigint, updated_at timestamptz, queued_at timestamptz, assigned_at timestamptz,
        claimed_at timestamptz, assigned_by text, finished_at timestamptz, finished_seq bigint, error_code text,
        status_reason text, result_bytes bigint, result_digest text, output_count bigint, stage_status jsonb, state text)
), facts AS (
    INSERT INTO {schema}.job_facts
    SELECT id, project_id, created_seq, created_at, actor, root_job_id, idx, count, title, prd_title, name, task_type, role, labels,
           subject, stages, depends_on, session_id, max_attempts, timeout_s, queue_timeout_s, run_at, concurrency_key, input_bytes
      FROM created
), states AS (
    INSERT INTO {schema}.job_states
    SELECT id, project_id, created_seq, root_job_id, role, kind, status, model, worker, attempt, spent, priority, not_before,
           lease_ttl_s, retention_until, held, purge, events, seq, updated_at, queued_at, assigned_at, claimed_at, assigned_by,
           finished_at, finished_seq, error_code, status_reason, result_bytes, result_digest, output_count, stage_status, state
      FROM created
)
INSERT INTO {schema}.prds (root_job_id, project_id, first_seq, created_at, title, count)
SELECT root_job_id, project_id, created_seq, created_at, prd_title, count FROM created
ON CONFLICT (root_job_id) DO NOTHING
