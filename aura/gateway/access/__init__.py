"""Who may do what: keys, tokens, tickets, the matrix, and what becomes of refusals."""
