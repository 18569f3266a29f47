"""Before a grid starts: memory, time and order of its runs, told from shapes and from finished rows."""
