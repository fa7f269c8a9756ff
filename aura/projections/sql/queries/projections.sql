-- projections: how far each projection is; lag in seconds is the age of its checkpoint's event while there is a newer one.
SELECT c.name, c.version, c.epoch, c.seq, c.updated_at, c.verified_seq, c.verified_at,
       extract(epoch FROM clock_timestamp()) - c.stored_ns / 1e9 AS age_s,
       (SELECT count(*) FROM read.quarantine q WHERE q.projection = c.name) AS quarantined
  FROM read.checkpoints c ORDER BY c.name
