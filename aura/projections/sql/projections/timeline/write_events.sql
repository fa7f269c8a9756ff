INSERT INTO {schema}.timeline
SELECT * FROM json_to_recordset(%(rows)s::json) AS t(
    seq bigint, kind text, entity text, project_id integer, type text, stored_ns bigint, ts timestamptz, actor text, state text)
