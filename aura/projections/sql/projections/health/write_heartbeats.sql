INSERT INTO {schema}.heartbeats
SELECT * FROM json_to_recordset(%(rows)s::json) AS h(
    seq bigint, model text, worker text, reported_at timestamptz, stored_ns bigint, status text, slots integer,
    interval_s double precision, payload json, in_flight json)
