"""Aura Orchestra from Python: submit work, watch it live, follow the log.

::

    from aura.client import Aura, Chunk

    async with Aura("http://127.0.0.1:8000") as aura:
        stored = await aura.submit({"title": "Hello", "tasks": [{"type": "greet", "role": "Greeter", "payload": {}}]})
        async for item in aura.watch(stored.job_ids[0]):
            match item:
                case Chunk(text=text):
                    print(text, end="")

What it promises and how: ``aura.py`` (the methods), ``log_cursor.py`` and ``job_cursor.py`` (no gap, no duplicate), ``line.py`` (what is
retried and what is final), ``http.py`` (what is repeated). Guide: ``docs/guides/clients.md``.
"""

from aura.client.aura import Aura
from aura.client.items import CLOSED, Chunk, Event, Job, LogLine, Note, Progress, Record, Reset, Submitted

__all__ = ["CLOSED", "Aura", "Chunk", "Event", "Job", "LogLine", "Note", "Progress", "Record", "Reset", "Submitted"]
