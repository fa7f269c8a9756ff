-- jobs_by_id: some jobs, newest first.
SELECT * FROM read.jobs WHERE id = ANY(%(ids)s::uuid[]) ORDER BY created_seq DESC
