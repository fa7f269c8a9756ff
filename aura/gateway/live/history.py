"""History as it is written: pieces of at most ``page_bytes``, joined once for all that come back to the same place.

When a server restarts, thousands of clients come back with the same cursor, or one of a few. What they missed is the same run of the
log, in the same framing, so the bytes are the same: they are joined for the first one, and what a slow client has not taken yet is a
reference to them and not a copy of its own.

Invariants

* A run is named by its first and last sequence, the subjects and the framing. The log never changes, so what is kept is never stale; a log
  that is another one ends the process's live feeds (``Hub.lost``), and nobody asks any more.
* Kept are at most :data:`KEPT_BYTES` (G12), those that were asked for last; and nothing once nobody has asked for anything for
  :data:`KEPT_S` to twice as long.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from aura.gateway.live.fanout.frames import Frame
from aura.gateway.live.fanout.outlet import Wire
from aura.gateway.live.fanout.trie import wanted
from aura.gateway.live.pieces import Piece, cut

KEPT_BYTES = 8 * 1024 * 1024
#: A run of more (a page of unusually large events) is made piece by piece for whoever asks, and never held as a whole.
MOST_BYTES = 4 * 1024 * 1024
KEPT_S = 5.0
#: A run that ends with the newest event is shared by those who ask before the next one. One this long or longer ends before, at a multiple
#: of as many sequences, so that it is shared for as long as so many events take to come.
EVEN = 128


_Key = tuple[int, int, tuple[str, ...], Wire]


def even(after: int, frames: Sequence[Frame]) -> Sequence[Frame]:
    """The part of a run after ``after`` that many will ask for."""
    count = (after + len(frames)) // EVEN * EVEN - after
    return frames[:count] if count >= EVEN else frames


class History:
    """See the module docstring."""

    def __init__(self, page_bytes: int) -> None:
        self._page_bytes = page_bytes
        self._kept: OrderedDict[_Key, list[Piece]] = OrderedDict()
        self._bytes = 0
        self._asked = False
        self._timer: asyncio.TimerHandle | None = None

    def run(self, frames: Sequence[Frame], patterns: tuple[str, ...], wire: Wire) -> Iterable[Piece]:
        """What ``patterns`` select of ``frames``, which are consecutive in the log."""
        key = (frames[0].seq, frames[-1].seq, patterns, wire)
        found = self._kept.get(key)
        self._asked = True
        if found is not None:
            self._kept.move_to_end(key)
            return found
        selected = wanted(frames, patterns)
        made = cut(selected, wire, self._page_bytes)
        if sum(len(frame.ws) for frame in selected) > MOST_BYTES:
            return made
        return self._keep(key, list(made))

    def _keep(self, key: _Key, run: list[Piece]) -> list[Piece]:
        self._kept[key] = run
        self._bytes += _size(run)
        while self._bytes > KEPT_BYTES:
            self._bytes -= _size(self._kept.popitem(last=False)[1])
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._forget)
        return run

    def _forget(self) -> None:
        """All, unless somebody has asked since it was last looked at."""
        self._timer = None
        if self._asked:
            self._asked = False
            self._timer = asyncio.get_running_loop().call_later(KEPT_S, self._forget)
        else:
            self._kept.clear()
            self._bytes = 0


def _size(run: list[Piece]) -> int:
    return sum(len(piece.data) for piece in run) + 256  # and what keeping it takes
