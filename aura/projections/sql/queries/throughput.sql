-- throughput: jobs created and closed per minute of the hour before a time, oldest first.
SELECT minute, outcome, sum(n)::bigint AS n
  FROM read.job_throughput
 WHERE minute > %(until)s::timestamptz - interval '1 hour' AND minute <= %(until)s::timestamptz
   AND (%(projects)s::integer[] IS NULL OR project_id = ANY(%(projects)s))
 GROUP BY minute, outcome ORDER BY minute
