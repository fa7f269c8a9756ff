-- job_statuses: where some jobs are (dependencies of a job, a bulk selection).
SELECT id, status, seq FROM read.job_states WHERE id = ANY(%(ids)s::uuid[])
