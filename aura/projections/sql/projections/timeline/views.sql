CREATE VIEW read.timeline AS 
    SELECT seq, kind, entity, project_id, type, stored_ns, ts, actor, state::json AS state FROM {schema}.timeline;
CREATE VIEW read.timeline_blocks AS SELECT * FROM {schema}.timeline_blocks;
