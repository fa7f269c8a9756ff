-- job_events: a job's history in order, from after a sequence. The events' own fields are in the log, at these sequences.
SELECT seq, type, ts, actor, state, to_timestamp(stored_ns / 1e9) AS stored_at
  FROM read.timeline
 WHERE entity = %(id)s AND kind = 'job' AND seq > %(after)s AND seq <= %(until)s
 ORDER BY seq LIMIT %(limit)s
