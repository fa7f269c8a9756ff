-- models: the logged facts of every model.
SELECT model, status, slots, roles, paused, coalesce(labels, '{}') AS labels, reason, last_seen, registered_at, updated_at, seq,
       state
  FROM read.models ORDER BY model LIMIT 10000
