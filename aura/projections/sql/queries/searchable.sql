-- searchable: whether titles have a trigram index.
SELECT count(*) = 2 AS yes FROM pg_extension WHERE extname IN ('pg_trgm', 'btree_gin')
