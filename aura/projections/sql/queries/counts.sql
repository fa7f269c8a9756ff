-- counts: jobs by status and by model now, in all or of some projects.
SELECT status, model, sum(n)::bigint AS n
  FROM (
    SELECT status, model, n FROM read.job_kinds WHERE %(projects)s::integer[] IS NULL
    UNION ALL
    SELECT status, model, n FROM read.job_counts WHERE project_id = ANY(%(projects)s)
  ) AS k
 GROUP BY status, model
