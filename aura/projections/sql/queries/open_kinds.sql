-- open_kinds: the kinds of jobs that are open, for open_jobs.
SELECT array_agg(kind) AS kinds FROM read.job_kinds WHERE status IN ('QUEUED', 'ASSIGNED', 'IN_PROGRESS')
