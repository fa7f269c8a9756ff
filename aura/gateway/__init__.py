"""The door to the outside: HTTP commands and reads, WebSocket and SSE feeds, one page.

Thin on purpose: commands go to ``aura.commands``, reads to ``projections.queries``, content to ``aura.log``; what is
decided here is who may connect, how requests and answers look, and how a committed event reaches a thousand sockets.

``app`` builds the ASGI application and ``server`` runs it. ``api`` is request and answer: the route table, reads,
commands. ``live`` is what streams: hub, feeds, the WebSocket and SSE shells. ``edge`` and ``security`` stand before
both.
"""
