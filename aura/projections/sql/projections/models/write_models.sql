-- NULL in labels, reason, last_seen and registered_at means "as it was"; '' means "now empty".
INSERT INTO {schema}.models AS m
SELECT model, status, slots, roles, paused, labels, nullif(reason, ''), last_seen, registered_at, updated_at, seq, state
  FROM json_to_recordset(%(rows)s::json) AS i(
       model text, status text, slots integer, roles json, paused boolean, labels json, reason text, last_seen timestamptz,
       registered_at timestamptz, updated_at timestamptz, seq bigint, state json)
ON CONFLICT (model) DO UPDATE SET
    status = excluded.status, slots = excluded.slots, roles = excluded.roles, paused = excluded.paused,
    labels = coalesce(excluded.labels, m.labels), reason = excluded.reason,
    last_seen = coalesce(excluded.last_seen, m.last_seen), registered_at = coalesce(m.registered_at, excluded.registered_at),
    updated_at = excluded.updated_at, seq = excluded.seq, state = excluded.state
