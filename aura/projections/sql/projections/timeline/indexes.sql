CREATE INDEX timeline_entity ON {schema}.timeline (entity, seq);
