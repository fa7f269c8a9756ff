-- jobs_as_of: jobs newest first as they were at a sequence: what `created` said, with the state carried by the job's last
-- event at or before it. Looks at `window` jobs, like jobs_scan.
WITH part AS MATERIALIZED (
    SELECT *
      FROM read.job_facts
     WHERE created_seq < %(before)s AND created_seq <= %(as_of)s
       AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
       AND (%(id)s::uuid IS NULL OR id = %(id)s)
     ORDER BY created_seq DESC LIMIT %(window)s
), hits AS MATERIALIZED (
    SELECT p.*, t.seq, t.ts, t.state
      FROM part p
     CROSS JOIN LATERAL (
        SELECT seq, ts, state FROM read.timeline
         WHERE entity = p.id::text AND kind = 'job' AND seq <= %(as_of)s
         ORDER BY seq DESC LIMIT 1
     ) AS t
     WHERE (%(pattern)s::text IS NULL OR p.title ILIKE %(pattern)s)
       AND (%(role)s::text IS NULL OR p.role = %(role)s)
       AND (%(status)s::text[] IS NULL OR t.state ->> 'status' = ANY(%(status)s))
       AND (%(model)s::text IS NULL OR t.state ->> 'model' = %(model)s)
     ORDER BY p.created_seq DESC LIMIT %(limit)s
)
SELECT told.*,
       h.id, h.project_id, h.root_job_id, h.idx AS index, h.count, h.title, h.prd_title, h.name, h.task_type, h.role,
       coalesce((h.state ->> 'priority')::integer, 5) AS priority, coalesce(h.labels, '{}') AS labels, h.subject,
       coalesce(h.stages, '[]') AS stages, coalesce(h.depends_on, '{}') AS depends_on, h.session_id, h.max_attempts,
       h.timeout_s, h.queue_timeout_s, h.run_at, h.concurrency_key, h.input_bytes, h.actor AS created_by,
       h.state ->> 'status' AS status, h.state ->> 'model' AS assigned_model, h.state ->> 'worker' AS worker,
       coalesce((h.state ->> 'attempt')::integer, 0) AS attempt, coalesce((h.state ->> 'spent')::integer, 0) AS spent,
       (h.state ->> 'not_before')::timestamptz AS not_before,
       (h.state ->> 'retention_until')::timestamptz AS retention_until,
       coalesce((h.state ->> 'held')::boolean, false) AS held, coalesce(h.state ->> 'purge', 'none') AS purge,
       h.created_at, h.ts AS updated_at, (h.state ->> 'n')::integer AS events, h.created_seq, h.seq
  FROM (
    SELECT hits, hits_to,
           CASE WHEN hits < %(limit)s THEN (SELECT count(*) FROM part) END AS scanned,
           CASE WHEN hits < %(limit)s THEN (SELECT min(created_seq) FROM part) END AS scanned_to
      FROM (SELECT count(*) AS hits, min(created_seq) AS hits_to FROM hits) AS found
  ) AS told
  LEFT JOIN hits h ON true
 ORDER BY h.created_seq DESC
