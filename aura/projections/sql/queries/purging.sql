-- purging: jobs whose erasure was requested and not yet recorded; a command service resumes them when it starts.
SELECT id, project_id, seq FROM read.archives WHERE purge = 'requested' ORDER BY id LIMIT %(limit)s
