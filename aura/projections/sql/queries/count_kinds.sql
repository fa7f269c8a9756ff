-- count_kinds: how many (status, role, model) kinds match a filter, and how many jobs they hold. Decides how to search:
-- few kinds are merged by index, many are scanned, none is an answer already.
SELECT count(*) AS kinds, coalesce(sum(n), 0)::bigint AS jobs
  FROM read.job_kinds
 WHERE (%(status)s::text[] IS NULL OR status = ANY(%(status)s))
   AND (%(role)s::text IS NULL OR role = %(role)s)
   AND (%(model)s::text IS NULL OR model = %(model)s)
