"""Connections: HTTP with its bounds, the WebSocket protocol behind it, and each client's way out."""
