"""The scheduler: decides which job runs where and when, and takes back what a lost worker held.

::

    log ──events──▶ Planner (pure) ──decisions──▶ Executor ──guarded appends──▶ log
                      ▲        ▲
      heartbeats ─────┘        └───── lease renewals            Leadership: who may decide (a lease in a KV bucket)

``planner.py`` is the state and the protocol with its owner, ``rounds.py`` one round of decisions, ``agenda.py`` where every open job
stands, ``ready.py`` the queues, ``timers.py`` the deadlines, ``pools.py`` the workers. ``service.py`` is the process around them,
``leader.py`` its terms, ``snapshot.py`` and ``recall.py`` where its knowledge begins. Which pool is chosen, and why, is
``aura/domain/policy.py``.
"""
