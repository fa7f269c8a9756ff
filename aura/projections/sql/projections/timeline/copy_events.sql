-- Many events.
COPY {schema}.timeline (seq, kind, entity, project_id, type, stored_ns, ts, actor, state) FROM STDIN (FORMAT csv, ESCAPE '\', NULL 'null')
