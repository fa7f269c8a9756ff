CREATE VIEW read.archives AS SELECT * FROM {schema}.archives;
