-- count_kinds_of_project: as count_kinds, within one project.
SELECT count(*) AS kinds, coalesce(sum(n), 0)::bigint AS jobs
  FROM read.job_counts
 WHERE project_id = %(project_id)s
   AND (%(status)s::text[] IS NULL OR status = ANY(%(status)s))
   AND (%(role)s::text IS NULL OR role = %(role)s)
   AND (%(model)s::text IS NULL OR model = %(model)s)
