-- jobs_scan: looks at the newest `window` jobs before a place and keeps those that match anything. Bounded by what it looks
-- at, not by what it finds: `scanned`, `scanned_to`, `hits` and `hits_to` (on every row, and on a row of NULLs when nothing
-- matched) say how far it came, so that the next page goes on from there. Once a page is full the rest is
-- left unread and uncounted (`scanned` is NULL).
WITH part AS MATERIALIZED (
    SELECT id, created_seq, title, role
      FROM read.job_facts
     WHERE created_seq < %(before)s AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
     ORDER BY created_seq DESC LIMIT %(window)s
), hits AS MATERIALIZED (
    SELECT p.id, p.created_seq
      FROM part p JOIN read.job_states s ON s.id = p.id
     WHERE (%(pattern)s::text IS NULL OR p.title ILIKE %(pattern)s)
       AND (%(role)s::text IS NULL OR p.role = %(role)s)
       AND (%(status)s::text[] IS NULL OR s.status = ANY(%(status)s))
       AND (%(model)s::text IS NULL OR s.model = %(model)s)
     ORDER BY p.created_seq DESC LIMIT %(limit)s
)
SELECT told.*, j.*
  FROM (
    SELECT hits, hits_to,
           CASE WHEN hits < %(limit)s THEN (SELECT count(*) FROM part) END AS scanned,
           CASE WHEN hits < %(limit)s THEN (SELECT min(created_seq) FROM part) END AS scanned_to
      FROM (SELECT count(*) AS hits, min(created_seq) AS hits_to FROM hits) AS found
  ) AS told
  LEFT JOIN (hits JOIN read.jobs j ON j.id = hits.id) ON true
 ORDER BY j.created_seq DESC
