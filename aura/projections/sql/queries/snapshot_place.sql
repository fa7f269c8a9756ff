-- snapshot_place: the checkpoint that every projection of the log has reached, of the oldest epoch there is while one is rebuilt.
SELECT epoch, seq, sha256, stored_ns FROM read.checkpoints WHERE name <> 'health' ORDER BY epoch, seq LIMIT 1
