-- models_health: the newest heartbeat of each model within the window, of a live worker if there is one, and how many workers and
-- slots it has there. A worker that said that it stopped counts for nothing.
SELECT DISTINCT ON (w.model) w.model AS model_name, w.payload, w.reported_at, w.status, w.worker AS worker_id,
       count(*) FILTER (WHERE w.status <> 'stopped') OVER (PARTITION BY w.model) AS workers,
       coalesce(sum(w.slots) FILTER (WHERE w.status <> 'stopped') OVER (PARTITION BY w.model), 0) AS slots,
       m.status AS logged_status, coalesce(m.paused, false) AS paused
  FROM read.workers w LEFT JOIN read.models m ON m.model = w.model
 WHERE w.stored_ns > (extract(epoch FROM clock_timestamp()) - %(window_s)s) * 1e9
 ORDER BY w.model, w.status = 'stopped', w.seq DESC
