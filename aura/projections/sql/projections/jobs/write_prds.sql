-- The PRDs of jobs that are copied; the first of its jobs makes a PRD's row.
INSERT INTO {schema}.prds (root_job_id, project_id, first_seq, created_at, title, count)
SELECT root_job_id, project_id, created_seq, created_at, prd_title, count
  FROM json_to_recordset(%(rows)s::json) AS c(
        root_job_id uuid, project_id integer, created_seq bigint, created_at timestamptz, prd_title text, count integer)
ON CONFLICT (root_job_id) DO NOTHING
