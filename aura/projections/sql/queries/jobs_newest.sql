-- jobs_newest: jobs newest first, of one project or of all. The index on created_seq gives the page; the wide rows follow.
SELECT j.*
  FROM (
    SELECT id, created_seq
      FROM read.job_facts
     WHERE created_seq < %(before)s AND (%(project_id)s::integer IS NULL OR project_id = %(project_id)s)
     ORDER BY created_seq DESC LIMIT %(limit)s
  ) AS page
  JOIN read.jobs j ON j.id = page.id
 ORDER BY page.created_seq DESC
