CREATE VIEW read.sessions AS SELECT * FROM {schema}.sessions;
CREATE VIEW read.session_agents AS SELECT * FROM {schema}.session_agents;
