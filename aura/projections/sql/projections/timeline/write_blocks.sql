INSERT INTO {schema}.timeline_blocks AS b (block, min_stored_ns)
SELECT * FROM json_to_recordset(%(rows)s::json) AS i(block integer, min_stored_ns bigint)
ON CONFLICT (block) DO UPDATE SET min_stored_ns = excluded.min_stored_ns WHERE excluded.min_stored_ns < b.min_stored_ns
