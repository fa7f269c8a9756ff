-- checkpoints: which log each projection was built from, and how far (compared with the log when a command service starts).
SELECT name, epoch, seq, sha256 FROM read.checkpoints WHERE name <> 'health' AND epoch <> '' ORDER BY name
