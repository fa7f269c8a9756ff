-- sessions: agent workflow sessions, newest first, each with its agents in the order in which they last started.
SELECT s.session_id, s.project_id, s.workflow, s.status, s.job_id, s.attempt, s.started_at, s.ended_at,
       (extract(epoch FROM s.ended_at - s.started_at) * 1000)::bigint AS duration_ms,
       s.error_code, s.message, s.ended_by, s.reason, s.input_bytes, s.output_bytes, s.updated_at, s.started_seq, s.seq,
       coalesce((
           SELECT json_agg(json_build_object(
                      'agent', a.agent,
                      'status', CASE WHEN a.status = 'RUNNING' AND (s.status <> 'RUNNING' OR a.attempt < s.attempt)
                                     THEN 'INTERRUPTED' ELSE a.status END,
                      'attempt', a.attempt, 'duration_ms', a.duration_ms,
                      'started_at', to_char(a.started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                      'ended_at', to_char(a.ended_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                      'error_code', a.error_code, 'message', a.message, 'output_bytes', a.output_bytes,
                      'output_digest', a.output_digest, 'output_part', a.output_part) ORDER BY a.started_seq)
             FROM read.session_agents a WHERE a.project_id = s.project_id AND a.session_id = s.session_id
       ), '[]'::json) AS agents
  FROM (
    SELECT * FROM read.sessions
     WHERE started_seq < %(before)s AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
       AND (%(id)s::text IS NULL OR session_id = %(id)s)
       AND (%(statuses)s::text[] IS NULL OR status = ANY(%(statuses)s))
     ORDER BY started_seq DESC LIMIT %(limit)s
  ) AS s
 ORDER BY s.started_seq DESC
