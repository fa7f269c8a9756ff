CREATE UNIQUE INDEX job_facts_newest ON {schema}.job_facts (created_seq);
CREATE INDEX job_facts_project ON {schema}.job_facts (project_id, created_seq);
CREATE INDEX job_facts_root ON {schema}.job_facts (root_job_id, idx);
CREATE INDEX job_facts_subject ON {schema}.job_facts (project_id, subject) WHERE subject IS NOT NULL;
CREATE INDEX job_states_kind ON {schema}.job_states (kind, created_seq);
CREATE INDEX job_states_project_kind ON {schema}.job_states (project_id, kind, created_seq);
CREATE INDEX job_states_finished ON {schema}.job_states (finished_seq) WHERE finished_seq IS NOT NULL;
CREATE INDEX prds_newest ON {schema}.prds (first_seq);
CREATE INDEX prds_project ON {schema}.prds (project_id, first_seq);
-- Trigrams within a bucket of 2^14 sequences, so that a search can go bucket by bucket, newest first, and stop.
DO $$
BEGIN
    IF (SELECT count(*) FROM pg_extension WHERE extname IN ('pg_trgm', 'btree_gin')) = 2 THEN
        CREATE INDEX job_facts_title ON {schema}.job_facts
            USING gin (((created_seq >> 14)::integer), title gin_trgm_ops) WITH (gin_pending_list_limit = 512);
    END IF;
END $$;
