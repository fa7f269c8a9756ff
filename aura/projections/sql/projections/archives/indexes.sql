CREATE INDEX archives_newest ON {schema}.archives (closed_seq);
CREATE INDEX archives_project ON {schema}.archives (project_id, closed_seq);
CREATE INDEX archives_purging ON {schema}.archives (id) WHERE purge = 'requested';
