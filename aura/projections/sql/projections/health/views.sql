CREATE VIEW read.heartbeats AS SELECT * FROM {schema}.heartbeats;
CREATE VIEW read.workers AS SELECT * FROM {schema}.workers;
