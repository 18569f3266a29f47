"""Two sets of rows compared, and the history of a table."""
