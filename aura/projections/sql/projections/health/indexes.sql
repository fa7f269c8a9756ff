CREATE INDEX heartbeats_model ON {schema}.heartbeats (model, seq);
