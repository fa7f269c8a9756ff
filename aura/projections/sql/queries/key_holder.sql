-- key_holder: the other job that runs, or is about to, under a concurrency key of a project. Few jobs run at once: they are found
-- by their kinds, not by an index on keys that every job would pay for.
SELECT s.id, s.status, s.seq
  FROM read.job_states s JOIN read.job_facts f ON f.id = s.id
 WHERE s.kind = ANY((SELECT array_agg(kind) FROM read.job_kinds WHERE status IN ('ASSIGNED', 'IN_PROGRESS'))::integer[])
   AND s.status IN ('ASSIGNED', 'IN_PROGRESS')
   AND f.project_id = %(project_id)s AND f.concurrency_key = %(key)s AND s.id <> %(id)s
 ORDER BY s.seq LIMIT 1
