"""Ready-made handlers: run a program, or ask an OpenAI-compatible chat server."""
