-- jobs_by_kind: jobs newest first that match status, role and model. Each matching kind is one ordered index range; the
-- newest of each are merged. Cost: kinds x limit, whatever the number of jobs and wherever in time the matches are.
SELECT j.*
  FROM (
    SELECT s.id, s.created_seq
      FROM read.job_kinds k
     CROSS JOIN LATERAL (
        SELECT s.id, s.created_seq
          FROM read.job_states s
         WHERE s.kind = k.kind AND s.created_seq < %(before)s
           AND s.status = k.status AND s.role = k.role AND coalesce(s.model, '') = k.model
         ORDER BY s.created_seq DESC LIMIT %(limit)s
     ) AS s
     WHERE (%(status)s::text[] IS NULL OR k.status = ANY(%(status)s))
       AND (%(role)s::text IS NULL OR k.role = %(role)s)
       AND (%(model)s::text IS NULL OR k.model = %(model)s)
     ORDER BY s.created_seq DESC LIMIT %(limit)s
  ) AS page
  JOIN read.jobs j ON j.id = page.id
 WHERE %(pattern)s::text IS NULL OR j.title ILIKE %(pattern)s
 ORDER BY page.created_seq DESC
