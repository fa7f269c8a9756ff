-- open_jobs: everything a planner needs of every open job: facts, carried state, last sequence, and where the
-- jobs stand that it still waits for (null = none; met ones are left out). since_ns: by the log's own clock, when the event was
-- stored that led to the present status.
SELECT f.id, f.project_id, f.root_job_id, f.title, f.task_type, f.role, f.created_seq, f.created_at, f.session_id,
       f.timeout_s, f.queue_timeout_s, f.run_at, f.concurrency_key, f.max_attempts,
       s.status, s.model AS assigned_model, s.worker, s.attempt, s.spent, s.priority, s.not_before, s.lease_ttl_s, s.queued_at,
       s.assigned_at, s.assigned_by, s.claimed_at, s.seq, s.state::json AS state,
       CASE WHEN f.depends_on IS NOT NULL AND s.status = 'QUEUED' THEN (
           SELECT json_object_agg(d.id, d.status) FROM read.job_states d
            WHERE d.id = ANY(f.depends_on) AND d.status <> 'COMPLETED'
       ) END AS unmet_deps,
       t.stored_ns AS since_ns
  FROM read.job_states s
  JOIN read.job_facts f ON f.id = s.id
  LEFT JOIN LATERAL (
      SELECT l.stored_ns FROM read.timeline l
       WHERE l.entity = s.id::text AND l.type NOT IN ('job.stage_changed', 'job.reprioritized', 'job.late_result_rejected')
       ORDER BY l.seq DESC LIMIT 1
  ) t ON true
 WHERE s.kind = ANY(%(kinds)s::integer[])
   AND CASE WHEN s.status IN ('QUEUED', 'ASSIGNED', 'IN_PROGRESS') THEN true ELSE false END
