"""Request and answer: one route table, its handlers, its documentation."""
