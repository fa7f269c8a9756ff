"""Who wants which subject: NATS wildcards in a trie, so that an event costs what matches it, not what is subscribed.

``*`` is one token, ``>`` one or more at the end. Patterns come from clients and are checked by :func:`check_pattern`
first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Generic, TypeVar

from aura.errors import InvalidRequest
from aura.events.subjects import LOG_SUBJECTS
from aura.gateway.live.fanout.frames import Frame

V = TypeVar("V")
_TOKEN = re.compile(r"(?:[A-Za-z0-9_-]{1,64}|\*)\Z")
MAX_TOKENS = 8


def check_pattern(pattern: object, field: str = "subject") -> str:
    """A pattern over the log's subjects. Raises ``InvalidRequest`` for anything else (``$JS.…``, spaces, an early
    ``>``)."""
    if isinstance(pattern, str) and len(pattern) <= 512:
        tokens = pattern.split(".")
        body = tokens[:-1] if tokens[-1] == ">" else tokens
        if len(tokens) <= MAX_TOKENS and tokens[0] == "aura" and all(_TOKEN.match(token) for token in body):
            return pattern
    raise InvalidRequest(
        "a subject is aura.… with tokens of A-Z a-z 0-9 _ -, * for one token and > at the end", field=field
    )


def matches(pattern: str, subject: str) -> bool:
    """Whether one pattern selects one subject."""
    wanted, tokens = pattern.split("."), subject.split(".")
    for index, token in enumerate(wanted):
        if token == ">":  # noqa: S105 - a token of a subject
            return len(tokens) > index
        if index >= len(tokens) or token not in ("*", tokens[index]):
            return False
    return len(wanted) == len(tokens)


@lru_cache(1_024)
def selector(patterns: tuple[str, ...]) -> Callable[[str], object]:
    """A test for "one of ``patterns`` selects this subject", for reading many subjects of history."""
    return re.compile("|".join(f"(?:{_expression(pattern)})" for pattern in patterns)).match


def wanted(frames: Sequence[Frame], patterns: tuple[str, ...]) -> Sequence[Frame]:
    """The frames that the patterns select."""
    if all(subject in patterns for subject in LOG_SUBJECTS):
        return frames
    selects = selector(patterns)
    return [frame for frame in frames if selects(frame.subject)]


def _expression(pattern: str) -> str:
    tokens = [r"[^.]+" if token == "*" else re.escape(token) for token in pattern.split(".")]  # noqa: S105
    if tokens[-1] == ">":
        tokens[-1] = r".+"
    return r"\.".join(tokens) + r"\Z"


class _Node(Generic[V]):
    __slots__ = ("children", "rest", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[V]] = {}
        self.values: dict[V, None] = {}
        self.rest: dict[V, None] = {}

    @property
    def empty(self) -> bool:
        return not (self.children or self.values or self.rest)


class SubjectTrie(Generic[V]):
    """Values under patterns. A value may stand under several patterns and is found once."""

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()

    def insert(self, pattern: str, value: V) -> None:
        """Add ``value`` under ``pattern``."""
        tokens = pattern.split(".")
        node = self._root
        for token in tokens[:-1]:
            node = node.children.setdefault(token, _Node())
        if tokens[-1] == ">":
            node.rest[value] = None
        else:
            node.children.setdefault(tokens[-1], _Node()).values[value] = None

    def remove(self, pattern: str, value: V) -> None:
        """Take it out again; nothing happens when it is not there. Leaves no empty nodes."""
        tokens = pattern.split(".")
        path = [self._root]
        open_end = tokens[-1] == ">"
        for token in tokens[:-1] if open_end else tokens:
            child = path[-1].children.get(token)
            if child is None:
                return
            path.append(child)
        (path[-1].rest if open_end else path[-1].values).pop(value, None)
        for depth in range(len(path) - 1, 0, -1):
            if not path[depth].empty:
                return
            del path[depth - 1].children[tokens[depth - 1]]

    def match(self, subject: str) -> dict[V, None]:
        """Every value whose pattern selects ``subject``, in a stable order."""
        found: dict[V, None] = {}
        nodes = [self._root]
        for token in subject.split("."):
            deeper = []
            for node in nodes:
                if node.rest:
                    found.update(node.rest)
                if node.children:
                    for key in (token, "*"):
                        child = node.children.get(key)
                        if child is not None:
                            deeper.append(child)
            nodes = deeper
            if not nodes:
                return found
        for node in nodes:
            found.update(node.values)
        return found
