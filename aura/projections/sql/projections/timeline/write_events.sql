-- A small batch of events; a large one is copied (copy_events, then write_blocks).
WITH input AS MATERIALIZED (
    SELECT * FROM json_to_recordset(%(rows)s::json) AS t(
        seq bigint, kind text, entity text, project_id integer, type text, stored_ns bigint, ts timestamptz, actor text,
        state text)
), events AS (
    INSERT INTO {schema}.timeline SELECT * FROM input
)
INSERT INTO {schema}.timeline_blocks AS b (block, min_stored_ns)
SELECT %(block)s::integer, min(stored_ns) FROM input
ON CONFLICT (block) DO UPDATE SET min_stored_ns = excluded.min_stored_ns WHERE excluded.min_stored_ns < b.min_stored_ns
