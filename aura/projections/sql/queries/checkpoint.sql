-- checkpoint: up to where every projection of the log has come.
SELECT min(seq) AS seq, min(epoch) AS epoch FROM read.checkpoints WHERE name <> 'health'
