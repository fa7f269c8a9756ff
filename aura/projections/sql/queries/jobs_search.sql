-- jobs_search: titles that contain a text, bucket by bucket of 2^14 sequences, newest first. The trigram index has the bucket
-- as its first column, so each step costs what one bucket holds, and the limit stops the walk.
SELECT hit.id, hit.created_seq
  FROM generate_series(%(bucket)s::integer, %(last_bucket)s::integer, -1) AS b(bucket)
 CROSS JOIN LATERAL (
    SELECT f.id, f.created_seq
      FROM read.job_facts f JOIN read.job_states s ON s.id = f.id
     WHERE (f.created_seq >> 14)::integer = b.bucket AND f.title ILIKE %(pattern)s
       AND f.created_seq < %(before)s
       AND (%(project_id)s::integer IS NULL OR f.project_id = %(project_id)s)
       AND (%(role)s::text IS NULL OR f.role = %(role)s)
       AND (%(status)s::text[] IS NULL OR s.status = ANY(%(status)s))
       AND (%(model)s::text IS NULL OR s.model = %(model)s)
     ORDER BY f.created_seq DESC LIMIT %(limit)s
 ) AS hit
 LIMIT %(limit)s
