-- stored_at: when the event at a sequence was stored.
SELECT stored_ns FROM read.timeline WHERE seq <= %(seq)s ORDER BY seq DESC LIMIT 1
