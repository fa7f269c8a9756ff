-- jobs_search: titles that contain a text, by the trigram index. Quick for rare texts; given a few milliseconds only, since a
-- text of frequent trigrams makes the index collect much of the table.
WITH hits AS MATERIALIZED (
    SELECT id, created_seq, project_id, role
      FROM read.job_facts
     WHERE title ILIKE %(pattern)s
)
SELECT h.id, h.created_seq
  FROM hits h JOIN read.job_states s ON s.id = h.id
 WHERE h.created_seq < %(before)s
   AND (%(project_id)s::integer IS NULL OR h.project_id = %(project_id)s)
   AND (%(role)s::text IS NULL OR h.role = %(role)s)
   AND (%(status)s::text[] IS NULL OR s.status = ANY(%(status)s))
   AND (%(model)s::text IS NULL OR s.model = %(model)s)
 ORDER BY h.created_seq DESC LIMIT %(limit)s
