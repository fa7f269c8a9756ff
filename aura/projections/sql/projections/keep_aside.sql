-- Entities kept aside: a new one with its reason, a known one with how many events it has waiting.
INSERT INTO aura.quarantine AS q (projection, version, kind, entity, seq, last_seq, events, subject, reason)
SELECT %(projection)s::text, %(version)s::integer, kind, entity, seq, last_seq, events, subject, reason
  FROM json_to_recordset(%(rows)s::json) AS i(
       kind text, entity text, seq bigint, last_seq bigint, events bigint, subject text, reason text)
ON CONFLICT (projection, version, kind, entity) DO UPDATE SET
    last_seq = excluded.last_seq, events = q.events + excluded.events
