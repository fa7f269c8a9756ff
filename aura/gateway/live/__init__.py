"""What streams: ``fanout`` (the same bytes for everybody), ``websocket`` (connections), ``dialects`` (what a client is told), and how a
client catches up."""
