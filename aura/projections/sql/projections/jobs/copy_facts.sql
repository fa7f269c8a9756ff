-- What `job.created` said of many jobs.
COPY {schema}.job_facts (id, project_id, created_seq, created_at, actor, root_job_id, idx, count, title, prd_title, name, task_type,
       role, labels, subject, stages, depends_on, session_id, max_attempts, timeout_s, queue_timeout_s, run_at, concurrency_key,
       input_bytes) FROM STDIN (FORMAT csv, ESCAPE '\', NULL 'null')
