-- quarantined: entities kept aside, oldest first.
SELECT * FROM read.quarantine ORDER BY seq, projection LIMIT %(limit)s
