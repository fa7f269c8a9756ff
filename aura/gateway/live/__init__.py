"""What streams: one hub per process, pure feeds, thin WebSocket and SSE shells."""
