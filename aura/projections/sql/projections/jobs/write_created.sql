-- The immutable part of jobs created in this batch, and their PRDs' rows.
WITH created AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS c(
        id uuid, project_id integer, created_seq bigint, created_at timestamptz, actor text, root_job_id uuid, idx integer,
        count integer, title text, prd_title text, name text, task_type text, role text, labels json, subject text,
        stages json, depends_on uuid[], session_id text, max_attempts integer, timeout_s double precision,
        queue_timeout_s double precision, run_at timestamptz, concurrency_key text, input_bytes bigint)
), facts AS (
    INSERT INTO {schema}.job_facts SELECT * FROM created ORDER BY created_seq
)
INSERT INTO {schema}.prds AS p (root_job_id, project_id, first_seq, created_at, title, count)
SELECT DISTINCT ON (root_job_id) root_job_id, project_id, created_seq, created_at, prd_title, count
  FROM created ORDER BY root_job_id, created_seq
ON CONFLICT (root_job_id) DO NOTHING
