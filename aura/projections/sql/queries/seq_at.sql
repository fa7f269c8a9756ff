-- seq_at: the greatest sequence whose store time is at or before a time. The newest block that begins early enough holds it,
-- unless the server's clock jumped back within it: then it is in that block all the same, since its minimum says so.
SELECT max(t.seq) AS seq
  FROM read.timeline t,
       (SELECT block FROM read.timeline_blocks WHERE min_stored_ns <= %(ns)s ORDER BY block DESC LIMIT 1) AS b
 WHERE t.seq >= b.block::bigint << 14 AND t.seq < (b.block::bigint + 1) << 14 AND t.stored_ns <= %(ns)s
