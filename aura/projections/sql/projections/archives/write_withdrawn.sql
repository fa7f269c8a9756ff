-- Jobs that left the archive in this batch; those that came back are written anew afterwards.
DELETE FROM {schema}.archives a
 USING json_to_recordset(%(rows)s::json) AS i(id uuid)
 WHERE a.id = i.id
