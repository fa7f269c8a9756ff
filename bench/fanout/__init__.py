"""Fan-out measured with tools of our own: a load client and a plain server in C, a naive hub, nats-server's own WebSocket listener."""
