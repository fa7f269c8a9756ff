-- counts_as_of: jobs by status and model at a sequence: the sum of all full blocks before it, then the block it is in, event
-- by event (each job's state there, less its state when the block began).
WITH touched AS MATERIALIZED (
    SELECT DISTINCT ON (entity) entity, project_id, state
      FROM read.timeline
     WHERE seq >= ((%(as_of)s::bigint >> 14) << 14) AND seq <= %(as_of)s AND kind = 'job'
       AND (%(projects)s::integer[] IS NULL OR project_id = ANY(%(projects)s))
     ORDER BY entity, seq DESC
), moves AS (
    SELECT status, model, n FROM read.count_deltas
     WHERE block < (%(as_of)s::bigint >> 14) AND (%(projects)s::integer[] IS NULL OR project_id = ANY(%(projects)s))
    UNION ALL
    SELECT state ->> 'status', coalesce(state ->> 'model', ''), 1 FROM touched
    UNION ALL
    SELECT was.state ->> 'status', coalesce(was.state ->> 'model', ''), -1
      FROM touched t
     CROSS JOIN LATERAL (
        SELECT state FROM read.timeline
         WHERE entity = t.entity AND kind = 'job' AND seq < ((%(as_of)s::bigint >> 14) << 14)
         ORDER BY seq DESC LIMIT 1
     ) AS was
)
SELECT status, model, sum(n)::bigint AS n FROM moves GROUP BY status, model HAVING sum(n) <> 0
