-- prd_jobs: the jobs of one PRD, in its order.
SELECT j.* FROM read.job_facts f JOIN read.jobs j ON j.id = f.id
 WHERE f.root_job_id = %(root)s ORDER BY f.idx LIMIT 1000
