"""The same work through other job queues for Python: same machine, same run. ``python -m bench.peers --help``.

A peer's own file (``*_peer.py``) runs in the peers' interpreter (``.venv-peers``), which does not have Aura: it and ``ledger.py`` use
the standard library and that one peer, nothing else.
"""
