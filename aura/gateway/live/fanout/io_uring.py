"""Linux' io_uring as far as a fan-out needs it: the same bytes to many sockets in one system call.

A thousand calls of ``send`` from Python cost a thousand crossings into the kernel and as many method calls. Here a column of file
descriptors is copied into the submission queue, whose other columns hardly change, and the kernel walks it.

::

    send ──columns──▶ submission queue ──io_uring_enter──▶ kernel sends each, inline ──only what fell short──▶ completion queue

Invariants

* Nothing is under way when :meth:`SubmissionRing.send` returns: ``MSG_DONTWAIT`` makes the kernel answer instead of waiting for room, so
  neither the bytes nor a file descriptor are used afterwards. What a client did not take is the caller's to send.
* Every client is accounted for. One of whom nothing is heard has taken all: the kernel leaves out the completions of successes
  (``IOSQE_CQE_SKIP_SUCCESS``, Linux 5.17), and counts what was cut short as none (``MSG_WAITALL``). One that the kernel did not get to
  has taken nothing.
* That the kernel keeps to this is not believed but tried, on a pair of sockets, before a ring is used (:func:`_prove`).

Failure cases: no Linux, an older one, or one where io_uring is forbidden (``kernel.io_uring_disabled``, the default profile of container
engines): :func:`open_ring` gives ``None``, which costs time and nothing else. A ring that fails later says so (:attr:`broken`).

Sources: ``io_uring_setup(2)``, ``io_uring_enter(2)``, ``include/uapi/linux/io_uring.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import socket
import struct
import sys
from array import array
from typing import Literal

import structlog

log = structlog.get_logger("aura.gateway")

#: Sockets per system call. A larger fan-out takes several.
ENTRIES = 1_024

_SETUP, _ENTER = 425, 426
#: ``struct io_uring_params``: how large it is, and where the offsets of both queues begin.
_PARAMS, _SQ_OFFSETS, _CQ_OFFSETS = 120, 40, 80
_FEAT_SINGLE_MMAP, _FEAT_CQE_SKIP = 1 << 0, 1 << 11
_OFF_SQES = 0x1000_0000
#: ``struct io_uring_sqe``: opcode, flags, ioprio, fd, off, addr, len, msg_flags, user_data; the rest is zero.
_SQE = struct.Struct("=BBHiQQIIQ24x")
_OP_SEND, _CQE_SKIP_SUCCESS = 26, 1 << 6
_FLAGS = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL | socket.MSG_WAITALL if sys.platform == "linux" else 0
#: ``struct io_uring_cqe``: user_data, res, flags.
_CQE = struct.Struct("=QiI")
_WORD = 4


class SubmissionRing:
    """See the module docstring. For one thread. Raises ``OSError`` where there is no such ring."""

    def __init__(self, entries: int = ENTRIES) -> None:
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        params = bytearray(_PARAMS)
        self._fd = self._call(_SETUP, entries, (ctypes.c_char * _PARAMS).from_buffer(params))
        if self._fd < 0:
            raise _failed("io_uring_setup")
        self.broken = False
        """The kernel refused to take requests: nothing more will be sent by it."""
        self._views: list[memoryview] = []
        self._maps: list[mmap.mmap] = []
        try:
            self._map(params)
        except BaseException:
            self.close()
            raise

    def _map(self, params: bytearray) -> None:
        self._entries, cq_entries, _, _, _, features = struct.unpack_from("=6I", params)
        if not (features & _FEAT_SINGLE_MMAP and features & _FEAT_CQE_SKIP):
            raise OSError(errno.ENOSYS, "this kernel's io_uring is too old")
        sq_head, sq_tail, _, _, _, _, sq_array = struct.unpack_from("=7I", params, _SQ_OFFSETS)
        cq_head, cq_tail, _, _, _, cqes = struct.unpack_from("=6I", params, _CQ_OFFSETS)
        size = max(sq_array + self._entries * _WORD, cqes + cq_entries * _CQE.size)
        self._memory = self._mapped(size, 0)
        sqes = self._mapped(self._entries * _SQE.size, _OFF_SQES)
        self._words = self._column(self._memory, "I", 0, 1)
        self._sq_head, self._sq_tail = sq_head // _WORD, sq_tail // _WORD
        self._cq_head, self._cq_tail, self._cqes, self._cq_mask = (
            cq_head // _WORD,
            cq_tail // _WORD,
            cqes,
            cq_entries - 1,
        )
        for slot in range(self._entries):
            self._words[sq_array // _WORD + slot] = slot
            _SQE.pack_into(sqes, slot * _SQE.size, _OP_SEND, _CQE_SKIP_SUCCESS, 0, -1, 0, 0, 0, _FLAGS, slot)
        self._fds = self._column(sqes, "I", 1, _SQE.size // 4)
        self._addresses = self._column(sqes, "Q", 2, _SQE.size // 8)
        self._lengths = self._column(sqes, "I", 6, _SQE.size // 4)

    def _mapped(self, size: int, offset: int) -> mmap.mmap:
        found = mmap.mmap(self._fd, size, offset=offset)
        self._maps.append(found)
        return found

    def _column(self, of: mmap.mmap, kind: Literal["I", "Q"], first: int, step: int) -> memoryview:
        with memoryview(of) as whole, whole.cast(kind) as items:
            found = items[first::step]
        self._views.append(found)
        return found

    def send(self, fds: array[int], data: bytes) -> dict[int, int]:
        """Send ``data`` to each of ``fds`` (``array("I")``). Which of them, by place, took less than all, and how many bytes. Never
        raises: a client whose connection is broken has taken nothing."""
        address = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0
        short: dict[int, int] = {}
        with memoryview(fds) as all_of_them:
            for at in range(0, len(fds), self._entries):
                count = min(self._entries, len(fds) - at)
                self._submit(all_of_them[at : at + count], address, len(data), at, short)
        return short

    def _submit(self, fds: memoryview, address: int, size: int, at: int, short: dict[int, int]) -> None:
        count, words = len(fds), self._words
        begin = words[self._sq_tail] % self._entries
        until_end = min(count, self._entries - begin)
        for first, last, offset in ((begin, begin + until_end, 0), (0, count - until_end, until_end)):
            if last > first:
                self._fds[first:last] = fds[offset : offset + last - first]
                self._addresses[first:last] = memoryview(array("Q", (address,)) * (last - first))
                self._lengths[first:last] = memoryview(array("I", (size,)) * (last - first))
        taken = self._enter(count)
        head, tail = words[self._cq_head], words[self._cq_tail]
        while head != tail:
            slot, result, _ = _CQE.unpack_from(self._memory, self._cqes + (head & self._cq_mask) * _CQE.size)
            short[at + (slot - begin) % self._entries] = max(result, 0)
            head = (head + 1) & 0xFFFF_FFFF
        words[self._cq_head] = head
        for place in range(taken, count):
            short[at + place] = 0

    def _enter(self, count: int) -> int:
        """How many of ``count`` prepared requests the kernel took; the others are withdrawn."""
        words = self._words
        head = words[self._sq_head]
        words[self._sq_tail] = (head + count) & 0xFFFF_FFFF
        taken = 0
        while taken < count and not self.broken:
            answer = self._call(_ENTER, self._fd, count - taken, 0, 0, None, 0)
            taken = (words[self._sq_head] - head) & 0xFFFF_FFFF
            if answer <= 0:
                self.broken = ctypes.get_errno() not in (errno.EINTR, errno.EAGAIN, errno.EBUSY)
                break
        words[self._sq_tail] = (head + taken) & 0xFFFF_FFFF
        return taken

    def close(self) -> None:
        """Let go of it. Safe twice."""
        self.broken = True
        for view in self._views:
            view.release()
        for mapped in self._maps:
            mapped.close()  # each has a file descriptor of its own
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _failed(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")


def open_ring() -> SubmissionRing | None:
    """A ring that was tried and does what it shall; ``None`` where there is none."""
    if sys.platform != "linux":
        return None
    try:
        ring = SubmissionRing()
    except (OSError, AttributeError, ValueError) as error:
        log.info("live.no_io_uring", reason=str(error))
        return None
    try:
        proven = _prove(ring)
    except OSError:  # something that had to be there is not
        proven = False
    if not proven:
        ring.close()
        log.warning("live.no_io_uring", reason="it does not do what its manual says")
        return None
    return ring


def _prove(ring: SubmissionRing) -> bool:
    """Sent whole, cut short, full, and gone: each as the module docstring has it, and nothing comes late."""
    ours, theirs = socket.socketpair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        theirs.setblocking(False)
        fds = array("I", (ours.fileno(),))
        if ring.send(fds, b"whole") or theirs.recv(16) != b"whole":
            return False
        large = bytes(1024 * 1024)
        taken = ring.send(fds, large).get(0, -1)
        if not 0 < taken < len(large) or ring.send(fds, b"late") != {0: 0}:
            return False
        arrived = 0
        with contextlib.suppress(BlockingIOError):
            while data := theirs.recv(len(large)):
                arrived += len(data)
        if arrived != taken or ring.send(fds, b"again") or theirs.recv(16) != b"again":
            return False
        theirs.close()
        return ring.send(fds, b"gone") == {0: 0}
