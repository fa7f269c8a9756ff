-- purging: jobs whose erasure was requested and not yet recorded, page by page; a command service resumes them.
SELECT id, project_id, seq FROM read.archives
 WHERE purge = 'requested' AND (%(after)s::uuid IS NULL OR id > %(after)s::uuid)
 ORDER BY id LIMIT %(limit)s
