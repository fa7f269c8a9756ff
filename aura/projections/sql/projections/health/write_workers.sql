INSERT INTO {schema}.workers AS w
SELECT * FROM json_to_recordset(%(rows)s::json) AS h(
    model text, worker text, seq bigint, reported_at timestamptz, stored_ns bigint, status text, slots integer,
    interval_s double precision, payload json, in_flight json)
ON CONFLICT (model, worker) DO UPDATE SET
    seq = excluded.seq, reported_at = excluded.reported_at, stored_ns = excluded.stored_ns, status = excluded.status,
    slots = excluded.slots, interval_s = excluded.interval_s, payload = excluded.payload, in_flight = excluded.in_flight
