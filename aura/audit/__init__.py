"""What happened, for whoever asks later: replay now, seals and proofs with their own issue."""
