-- prds: PRDs newest first, with how many of their jobs are where.
SELECT * FROM read.prds
 WHERE first_seq < %(before)s AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
   AND (%(root)s::uuid IS NULL OR root_job_id = %(root)s)
 ORDER BY first_seq DESC LIMIT %(limit)s
