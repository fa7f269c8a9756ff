-- searchable: whether titles have a trigram index.
SELECT count(*) = 1 AS yes FROM pg_extension WHERE extname = 'pg_trgm'
