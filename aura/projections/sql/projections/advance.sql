-- Moves the checkpoints of a batch, or fails everything that follows (aura.advance).
SELECT aura.advance(%(versions)s::json, %(epoch)s, %(seq)s, %(sha256)s, %(stored_ns)s, %(announce)s)
