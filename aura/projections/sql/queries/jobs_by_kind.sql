-- jobs_by_kind: looks at the newest `window` jobs whose status, role and model match, and keeps those whose title does. Each
-- matching kind is one ordered range of the index on (kind, created_seq), read without touching the table; the newest of all
-- ranges are merged. Cost: kinds x window, whatever the number of jobs and wherever in time the matches are. The kind is a
-- hash, so the values are checked again. Like jobs_scan it says how far it came.
WITH part AS MATERIALIZED (
    SELECT s.created_seq
      FROM read.job_kinds k
     CROSS JOIN LATERAL (
        SELECT s.created_seq
          FROM read.job_states s
         WHERE s.kind = k.kind AND s.created_seq < %(before)s
         ORDER BY s.created_seq DESC LIMIT %(window)s
     ) AS s
     WHERE (%(status)s::text[] IS NULL OR k.status = ANY(%(status)s))
       AND (%(role)s::text IS NULL OR k.role = %(role)s)
       AND (%(model)s::text IS NULL OR k.model = %(model)s)
     ORDER BY s.created_seq DESC LIMIT %(window)s
), titled AS MATERIALIZED (
    SELECT f.id, f.created_seq
      FROM part p JOIN read.job_facts f ON f.created_seq = p.created_seq
     WHERE (%(pattern)s::text IS NULL OR f.title ILIKE %(pattern)s)
     ORDER BY p.created_seq DESC LIMIT %(limit)s
)
SELECT told.*, j.*
  FROM (
    SELECT hits, hits_to,
           CASE WHEN hits < %(limit)s THEN (SELECT count(*) FROM part) END AS scanned,
           CASE WHEN hits < %(limit)s THEN (SELECT min(created_seq) FROM part) END AS scanned_to
      FROM (SELECT count(*) AS hits, min(created_seq) AS hits_to FROM titled) AS found
  ) AS told
  LEFT JOIN (
    titled JOIN read.jobs j ON j.id = titled.id
       AND (%(role)s::text IS NULL OR j.role = %(role)s)
       AND (%(status)s::text[] IS NULL OR j.status = ANY(%(status)s))
       AND (%(model)s::text IS NULL OR j.assigned_model = %(model)s)
  ) ON true
 ORDER BY j.created_seq DESC
