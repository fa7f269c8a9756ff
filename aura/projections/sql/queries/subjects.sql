-- subjects: the newest jobs of a project that have a subject, for the grid of subjects and stages.
SELECT f.subject, f.stages, s.stage_status, s.status, f.task_type, f.id, f.created_seq
  FROM (
    SELECT id, subject, stages, task_type, created_seq FROM read.job_facts
     WHERE project_id = %(project_id)s AND subject IS NOT NULL
     ORDER BY created_seq DESC LIMIT %(limit)s
  ) AS f
  JOIN read.job_states s ON s.id = f.id
 ORDER BY f.created_seq
