-- The frame every projection stands in: who is live, how far it has come, and what is kept aside.
--
-- aura.*  belongs to the projector.   read.*  is all that queries may see (views, switched in one transaction).
-- p_<name>_v<n>  holds the tables of one version of one projection; migrations never touch those.

CREATE SCHEMA IF NOT EXISTS aura;
CREATE SCHEMA IF NOT EXISTS read;

-- Search in titles uses trigrams. The extension is trusted and ships with every Postgres package; without it search looks at
-- the newest jobs page by page, so a missing one is not an error.
DO $$
BEGIN
    CREATE EXTENSION IF NOT EXISTS pg_trgm;
EXCEPTION WHEN insufficient_privilege OR undefined_file OR feature_not_supported THEN
    RAISE NOTICE 'pg_trgm is not available: title search will scan';
END $$;

-- One row per projection version: its place in the log (epoch, seq, sha256 of the event at seq) and whether queries see it.
CREATE TABLE aura.projections (
    name         text        NOT NULL,
    version      integer     NOT NULL,
    status       text        NOT NULL CHECK (status IN ('live', 'shadow', 'old')),
    shape        text        NOT NULL,              -- sha256 of the SQL that made its tables
    epoch        text        NOT NULL DEFAULT '',   -- '' until the first event
    seq          bigint      NOT NULL DEFAULT 0,
    sha256       text        NOT NULL DEFAULT '',
    stored_ns    bigint      NOT NULL DEFAULT 0,    -- store time of the event at seq, Unix nanoseconds
    updated_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    verified_seq bigint,
    verified_at  timestamptz,
    PRIMARY KEY (name, version)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX one_live_version ON aura.projections (name) WHERE status = 'live';

-- Entities whose events could not be applied (G17). Their later events are counted and kept aside: they stay in the log, and
-- a release or a rebuild applies them from `seq` on.
CREATE TABLE aura.quarantine (
    projection        text        NOT NULL,
    version           integer     NOT NULL,
    kind              text        NOT NULL,
    entity            text        NOT NULL,
    seq               bigint      NOT NULL,             -- the first event kept aside
    last_seq          bigint      NOT NULL,
    events            bigint      NOT NULL,
    subject           text        NOT NULL,
    reason            text        NOT NULL,
    raised_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    release_requested boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (projection, version, kind, entity)
);

-- Moves checkpoints, or fails the whole transaction: rows written by a projector that was overtaken never commit. It runs
-- first, so its row locks also let one transaction at a time write. Announces the sequence (delivered on commit).
CREATE FUNCTION aura.advance(
    p_versions json, p_epoch text, p_seq bigint, p_sha256 text, p_ns bigint, p_announce boolean
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    moved integer;
BEGIN
    UPDATE aura.projections p
       SET seq = p_seq, epoch = p_epoch, sha256 = p_sha256, stored_ns = p_ns, updated_at = clock_timestamp()
      FROM json_to_recordset(p_versions) AS v(name text, version integer, status text, seq bigint)
     WHERE p.name = v.name AND p.version = v.version AND p.status = v.status AND p.seq = v.seq AND p.epoch IN ('', p_epoch);
    GET DIAGNOSTICS moved = ROW_COUNT;
    IF moved <> json_array_length(p_versions) THEN
        RAISE EXCEPTION 'a checkpoint is not where it was left: %', p_versions USING ERRCODE = 'AU002';
    END IF;
    IF p_announce THEN
        PERFORM pg_notify('aura_projected', p_epoch || ':' || p_seq);
    END IF;
END $$;

-- Fails the transaction when events name rows that were never created.
CREATE FUNCTION aura.refuse_unknown(p_missing bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF p_missing <> 0 THEN
        RAISE EXCEPTION '% rows to change do not exist', p_missing USING ERRCODE = 'AU001';
    END IF;
END $$;

CREATE VIEW read.checkpoints AS
    SELECT name, version, epoch, seq, sha256, stored_ns, updated_at, verified_seq, verified_at
      FROM aura.projections WHERE status = 'live';

CREATE VIEW read.quarantine AS
    SELECT q.projection, q.kind, q.entity, q.seq, q.last_seq, q.events, q.subject, q.reason, q.raised_at, q.release_requested
      FROM aura.quarantine q
      JOIN aura.projections p ON p.name = q.projection AND p.version = q.version AND p.status = 'live';
