-- Moves the checkpoints of a batch, or fails everything that follows (aura.advance). `false`: nobody listens, see waiting.py.
SELECT aura.advance(%(versions)s::json, %(epoch)s, %(seq)s, %(sha256)s, %(stored_ns)s, false)
