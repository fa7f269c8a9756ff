"""The same bytes for everybody: one tail of the log, who wants which subject, and how many clients are written to."""
