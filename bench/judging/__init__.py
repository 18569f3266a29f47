"""From rows to the cells of a table: which rows sit where, what may be compared, what was gained."""
