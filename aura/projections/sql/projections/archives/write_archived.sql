-- The first closing event dates the row; later ones (accepted, held, purged) change it. NULL means "as it was".
INSERT INTO {schema}.archives AS a
SELECT id, project_id, closed_seq, final_status, archived_at, retention_until, role, model, attempt, held, purge,
       purge_requested_at, purged_at, purged_by, purge_reason, purged_bytes, purged_stores, seq
  FROM json_to_recordset(%(rows)s::json) AS i(
       id uuid, project_id integer, closed_seq bigint, final_status text, archived_at timestamptz,
       retention_until timestamptz, role text, model text, attempt integer, held boolean, purge text,
       purge_requested_at timestamptz, purged_at timestamptz, purged_by text, purge_reason text, purged_bytes bigint,
       purged_stores json, seq bigint)
ON CONFLICT (id) DO UPDATE SET
    final_status = excluded.final_status, retention_until = excluded.retention_until, held = excluded.held,
    purge = excluded.purge, model = excluded.model, attempt = excluded.attempt, seq = excluded.seq,
    purge_requested_at = coalesce(excluded.purge_requested_at, a.purge_requested_at),
    purged_at = coalesce(excluded.purged_at, a.purged_at), purged_by = coalesce(excluded.purged_by, a.purged_by),
    purge_reason = coalesce(excluded.purge_reason, a.purge_reason),
    purged_bytes = coalesce(excluded.purged_bytes, a.purged_bytes),
    purged_stores = coalesce(excluded.purged_stores, a.purged_stores)
