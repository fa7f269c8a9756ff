CREATE INDEX sessions_newest ON {schema}.sessions (started_seq);
CREATE INDEX sessions_project ON {schema}.sessions (project_id, started_seq);
CREATE INDEX sessions_name ON {schema}.sessions (session_id);
CREATE INDEX sessions_running ON {schema}.sessions (started_seq) WHERE status = 'RUNNING';
