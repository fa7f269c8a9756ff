-- counts: jobs by status and by model now, in all or of one project.
SELECT status, model, sum(n)::bigint AS n
  FROM (
    SELECT status, model, n FROM read.job_kinds WHERE %(project_id)s::integer IS NULL
    UNION ALL
    SELECT status, model, n FROM read.job_counts WHERE project_id = %(project_id)s
  ) AS k
 GROUP BY status, model
