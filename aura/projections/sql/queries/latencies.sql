-- latencies: seconds waited, worked and in all, over the newest 2,000 finished jobs (of some projects: those among them).
WITH newest AS MATERIALIZED (
    SELECT id, project_id FROM read.archives ORDER BY closed_seq DESC LIMIT 2000
), spans AS (
    SELECT extract(epoch FROM s.claimed_at - f.created_at)::double precision AS wait,
           extract(epoch FROM s.finished_at - s.claimed_at)::double precision AS work,
           extract(epoch FROM s.finished_at - f.created_at)::double precision AS total
      FROM newest n JOIN read.job_facts f ON f.id = n.id JOIN read.job_states s ON s.id = n.id
     WHERE s.claimed_at IS NOT NULL AND s.finished_at IS NOT NULL AND (%(projects)s::integer[] IS NULL OR n.project_id = ANY(%(projects)s))
)
SELECT count(*) AS jobs,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY wait) AS wait,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY work) AS work,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY total) AS total
  FROM spans
