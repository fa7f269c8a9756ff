-- archives: closed jobs newest first, with what `created` said of them.
SELECT a.id, a.project_id, a.final_status, a.archived_at, a.retention_until, a.held, a.purge, a.purge_requested_at,
       a.purged_at, a.purged_by, a.purge_reason, a.purged_bytes, a.purged_stores, a.role, a.model AS assigned_model,
       a.attempt, f.title, f.root_job_id, f.prd_title, f.task_type, f.subject, f.created_at, s.output_count, s.result_bytes,
       s.error_code, a.closed_seq, a.seq
  FROM (
    SELECT * FROM read.archives
     WHERE closed_seq < %(before)s AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
       AND (%(id)s::uuid IS NULL OR id = %(id)s)
     ORDER BY closed_seq DESC LIMIT %(limit)s
  ) AS a
  LEFT JOIN read.job_facts f ON f.id = a.id
  LEFT JOIN read.job_states s ON s.id = a.id
 ORDER BY a.closed_seq DESC
