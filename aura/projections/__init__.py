"""Read models in Postgres, folded from the log.

======================  ==============================================================================================
``decoding.py``         one stored event → what folds need of it, or poison
``projection.py``       what a projection is: tables, a fold, the statements that write it
``jobs.py`` …           the projections: jobs, timeline, models, archives, sessions (from the log) and health (from AURA_HEALTH)
``versions.py``         a version of a projection owns a schema ``p_<name>_v<n>``; queries see the views ``read.*``
``writer.py``           rows + checkpoint in one transaction; poison is isolated and quarantined
``runner.py``           follows a stream and drives the writer; leads or stands by
``rebuild.py``          a new version beside the live one, compared row by row, switched atomically
``queries.py``          everything that reads; the only part the gateway may import
======================  ==============================================================================================
"""
