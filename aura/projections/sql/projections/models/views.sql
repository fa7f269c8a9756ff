CREATE VIEW read.models AS SELECT * FROM {schema}.models;
