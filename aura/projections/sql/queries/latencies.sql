-- latencies: seconds waited, worked and in all, over the newest 2,000 finished jobs (of one project: those among them).
WITH newest AS MATERIALIZED (
    SELECT id, project_id, claimed_at, finished_at, worker
      FROM read.job_states WHERE finished_seq IS NOT NULL ORDER BY finished_seq DESC LIMIT 2000
), spans AS (
    SELECT extract(epoch FROM n.claimed_at - f.created_at)::double precision AS wait,
           extract(epoch FROM n.finished_at - n.claimed_at)::double precision AS work,
           extract(epoch FROM n.finished_at - f.created_at)::double precision AS total
      FROM newest n JOIN read.job_facts f ON f.id = n.id
     WHERE n.claimed_at IS NOT NULL AND (%(project_id)s::integer IS NULL OR n.project_id = %(project_id)s)
)
SELECT count(*) AS jobs,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY wait) AS wait,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY work) AS work,
       percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY total) AS total
  FROM spans
