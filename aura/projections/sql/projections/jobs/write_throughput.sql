-- Facts per event, simply added up.
INSERT INTO {schema}.job_throughput AS t (minute, project_id, model, outcome, n)
SELECT to_timestamp(minute * 60), project_id, model, outcome, n
  FROM json_to_recordset(%(rows)s::json) AS i(minute bigint, project_id integer, model text, outcome text, n bigint)
ON CONFLICT (minute, project_id, model, outcome) DO UPDATE SET n = t.n + excluded.n
