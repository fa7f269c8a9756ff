CREATE UNIQUE INDEX job_facts_newest ON {schema}.job_facts (created_seq);
CREATE INDEX job_facts_project ON {schema}.job_facts (project_id, created_seq);
CREATE INDEX job_facts_root ON {schema}.job_facts (root_job_id, idx);
CREATE INDEX job_facts_subject ON {schema}.job_facts (project_id, subject) WHERE subject IS NOT NULL;
CREATE INDEX job_states_kind ON {schema}.job_states (kind, created_seq);
CREATE INDEX job_states_project_kind ON {schema}.job_states (project_id, kind, created_seq);
CREATE INDEX prds_newest ON {schema}.prds (first_seq);
CREATE INDEX prds_project ON {schema}.prds (project_id, first_seq);
-- Finds rare texts in titles; frequent ones are found by looking at the newest jobs.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_trgm') THEN
        CREATE INDEX job_facts_title ON {schema}.job_facts USING gin (title gin_trgm_ops) WITH (gin_pending_list_limit = 512);
    END IF;
END $$;
