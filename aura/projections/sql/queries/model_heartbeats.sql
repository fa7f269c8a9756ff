-- model_heartbeats: one model's heartbeats, newest first.
SELECT worker AS worker_id, reported_at, status, slots, interval_s, payload, in_flight, seq
  FROM read.heartbeats WHERE model = %(model)s ORDER BY seq DESC LIMIT %(limit)s
