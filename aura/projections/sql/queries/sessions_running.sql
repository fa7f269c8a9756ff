-- sessions_running: sessions that have not ended, oldest first, after a place; for the sweep that ends those whose jobs have.
SELECT project_id, session_id, job_id, started_seq
  FROM read.sessions WHERE status = 'RUNNING' AND started_seq > %(after)s
 ORDER BY started_seq LIMIT %(limit)s
