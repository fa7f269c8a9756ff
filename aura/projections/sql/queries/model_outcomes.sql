-- model_outcomes: how the jobs of each model have ended so far, and the mean seconds of work of those among the newest 2,000.
WITH newest AS MATERIALIZED (
    SELECT id FROM read.archives ORDER BY closed_seq DESC LIMIT 2000
), latencies AS (
    SELECT s.model, greatest(avg(extract(epoch FROM s.finished_at - s.claimed_at)), 0)::double precision AS latency_s
      FROM newest n JOIN read.job_states s ON s.id = n.id
     WHERE s.claimed_at IS NOT NULL AND s.finished_at IS NOT NULL
     GROUP BY s.model
), outcomes AS (
    SELECT model, coalesce(sum(n) FILTER (WHERE status = 'COMPLETED'), 0)::bigint AS succeeded,
           coalesce(sum(n) FILTER (WHERE status = 'FAILED'), 0)::bigint AS failed
      FROM read.job_kinds WHERE model <> '' GROUP BY model
)
SELECT model, o.succeeded, o.failed, coalesce(l.latency_s, 0) AS latency_s
  FROM outcomes o LEFT JOIN latencies l USING (model)
