-- The changing part of jobs that were there before this batch, and the counts that follow from it and from those that were `born`.
-- In the columns of single events (queued_at and after) NULL means "as it was"; '', -1, 0 and -infinity mean "now empty". `old` reads
-- the rows as they were before this statement, so the difference old → new is exact whatever the batch held.
WITH input AS MATERIALIZED (
    SELECT *
      FROM json_to_recordset(%(rows)s::json) AS i(
        id uuid, project_id integer, role text, kind integer, status text, model text,
        worker text, attempt integer, spent integer, priority smallint, not_before timestamptz,
        lease_ttl_s double precision, retention_until timestamptz, held boolean, purge text, events integer, seq bigint,
        updated_at timestamptz, queued_at timestamptz, assigned_at timestamptz, claimed_at timestamptz,
        assigned_by text, finished_at timestamptz, finished_seq bigint, error_code text, status_reason text, result_bytes bigint,
        result_digest text, output_count bigint, stage_status jsonb, stage_reset boolean, state text)
), old AS MATERIALIZED (
    SELECT s.project_id, s.root_job_id, s.status, s.role, s.model, s.kind, i.project_id AS new_project_id,
           i.status AS new_status, i.role AS new_role, i.model AS new_model, i.kind AS new_kind,
           (s.project_id, s.status, s.role, s.model) IS DISTINCT FROM (i.project_id, i.status, i.role, i.model) AS moved
      FROM input i JOIN {schema}.job_states s ON s.id = i.id
), changed AS (
    UPDATE {schema}.job_states s
       SET kind = i.kind, status = i.status, model = i.model, worker = i.worker, attempt = i.attempt, spent = i.spent,
           priority = i.priority, not_before = i.not_before, lease_ttl_s = i.lease_ttl_s,
           retention_until = i.retention_until, held = i.held, purge = i.purge, events = i.events, seq = i.seq,
           updated_at = i.updated_at,
           queued_at = coalesce(i.queued_at, s.queued_at),
           assigned_at = coalesce(i.assigned_at, s.assigned_at),
           claimed_at = coalesce(i.claimed_at, s.claimed_at),
           assigned_by = coalesce(i.assigned_by, s.assigned_by),
           finished_at = nullif(coalesce(i.finished_at, s.finished_at), '-infinity'),
           finished_seq = nullif(coalesce(i.finished_seq, s.finished_seq), 0),
           error_code = nullif(coalesce(i.error_code, s.error_code), ''),
           status_reason = nullif(coalesce(i.status_reason, s.status_reason), ''),
           result_bytes = nullif(coalesce(i.result_bytes, s.result_bytes), -1),
           result_digest = nullif(coalesce(i.result_digest, s.result_digest), ''),
           output_count = nullif(coalesce(i.output_count, s.output_count), -1),
           stage_status = CASE WHEN i.stage_reset THEN coalesce(i.stage_status, '{}')
                               ELSE s.stage_status || coalesce(i.stage_status, '{}') END,
           state = i.state
      FROM input i
     WHERE s.id = i.id
), moves AS MATERIALIZED (
    SELECT project_id, root_job_id, status, role, coalesce(model, '') AS model, kind, -1 AS n FROM old WHERE moved
    UNION ALL
    SELECT new_project_id, root_job_id, new_status, new_role, coalesce(new_model, ''), new_kind, 1 FROM old WHERE moved
    UNION ALL
    SELECT project_id, root_job_id, status, role, model, kind, n
      FROM json_to_recordset(%(born)s::json) AS b(
           project_id integer, root_job_id uuid, status text, role text, model text, kind integer, n integer)
), delta AS MATERIALIZED (
    SELECT project_id, status, role, model, kind, sum(n) AS n
      FROM moves GROUP BY project_id, status, role, model, kind HAVING sum(n) <> 0
), kinds AS (
    INSERT INTO {schema}.job_kinds AS k (status, role, model, kind, n)
    SELECT status, role, model, kind, sum(n) FROM delta GROUP BY status, role, model, kind HAVING sum(n) <> 0
    ON CONFLICT (status, role, model) DO UPDATE SET n = k.n + excluded.n
), counts AS (
    INSERT INTO {schema}.job_counts AS k (project_id, status, role, model, kind, n)
    SELECT project_id, status, role, model, kind, n FROM delta
    ON CONFLICT (project_id, status, role, model) DO UPDATE SET n = k.n + excluded.n
), blocks AS (
    INSERT INTO {schema}.count_deltas AS k (block, project_id, status, role, model, n)
    SELECT %(block)s::integer, project_id, status, role, model, n FROM delta
    ON CONFLICT (block, project_id, status, role, model) DO UPDATE SET n = k.n + excluded.n
), throughput AS (  -- facts per event, simply added up
    INSERT INTO {schema}.job_throughput AS t (minute, project_id, model, outcome, n)
    SELECT to_timestamp(minute * 60), project_id, model, outcome, n
      FROM json_to_recordset(%(throughput)s::json) AS i(minute bigint, project_id integer, model text, outcome text, n bigint)
    ON CONFLICT (minute, project_id, model, outcome) DO UPDATE SET n = t.n + excluded.n
), prds AS (
    UPDATE {schema}.prds p
       SET queued = p.queued + d.queued, assigned = p.assigned + d.assigned, in_progress = p.in_progress + d.in_progress,
           submitted = p.submitted + d.submitted, completed = p.completed + d.completed, failed = p.failed + d.failed,
           cancelled = p.cancelled + d.cancelled
      FROM (
        SELECT root_job_id,
               coalesce(sum(n) FILTER (WHERE status = 'QUEUED'), 0) AS queued,
               coalesce(sum(n) FILTER (WHERE status = 'ASSIGNED'), 0) AS assigned,
               coalesce(sum(n) FILTER (WHERE status = 'IN_PROGRESS'), 0) AS in_progress,
               coalesce(sum(n) FILTER (WHERE status = 'SUBMITTED'), 0) AS submitted,
               coalesce(sum(n) FILTER (WHERE status = 'COMPLETED'), 0) AS completed,
               coalesce(sum(n) FILTER (WHERE status = 'FAILED'), 0) AS failed,
               coalesce(sum(n) FILTER (WHERE status = 'CANCELLED'), 0) AS cancelled
          FROM moves GROUP BY root_job_id
      ) AS d
     WHERE p.root_job_id = d.root_job_id
)
SELECT aura.refuse_unknown((SELECT count(*) FROM input) - (SELECT count(*) FROM old))
