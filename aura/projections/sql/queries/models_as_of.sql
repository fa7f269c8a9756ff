-- models_as_of: the logged facts of every model at a sequence (health is not kept that long).
SELECT DISTINCT ON (entity) entity AS model, state ->> 'status' AS status, (state ->> 'slots')::integer AS slots,
       state -> 'roles' AS roles, (state ->> 'paused')::boolean AS paused, ts AS updated_at, seq
  FROM read.timeline
 WHERE kind = 'model' AND entity IN (SELECT model FROM read.models) AND seq <= %(as_of)s
 ORDER BY entity, seq DESC
