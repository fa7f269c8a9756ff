CREATE VIEW read.job_facts AS SELECT * FROM {schema}.job_facts;
CREATE VIEW read.job_states AS SELECT * FROM {schema}.job_states;
CREATE VIEW read.prds AS SELECT * FROM {schema}.prds;
CREATE VIEW read.job_kinds AS SELECT * FROM {schema}.job_kinds WHERE n > 0;
CREATE VIEW read.job_counts AS SELECT * FROM {schema}.job_counts WHERE n > 0;
CREATE VIEW read.count_deltas AS SELECT * FROM {schema}.count_deltas;
CREATE VIEW read.job_throughput AS SELECT * FROM {schema}.job_throughput;
CREATE VIEW read.jobs AS
    SELECT f.id, f.project_id, f.root_job_id, f.idx AS index, f.count, f.title, f.prd_title, f.name, f.task_type, f.role,
           s.priority, coalesce(f.labels, '{}') AS labels, f.subject, coalesce(f.stages, '[]') AS stages,
           s.stage_status, coalesce(f.depends_on, '{}') AS depends_on, f.session_id, f.max_attempts,
           f.timeout_s, f.queue_timeout_s, f.run_at, f.concurrency_key, f.input_bytes, f.actor AS created_by,
           s.status, s.model AS assigned_model, s.worker, s.attempt, s.spent, s.not_before, s.lease_ttl_s,
           s.retention_until, s.held, s.purge, f.created_at, s.queued_at, s.assigned_at, s.assigned_by, s.claimed_at, s.finished_at,
           s.updated_at, s.error_code, s.status_reason, s.result_bytes, s.result_digest, s.output_count, s.events,
           f.created_seq, s.seq
      FROM {schema}.job_facts f
      JOIN {schema}.job_states s ON s.id = f.id;
