"""The report page: a folder with `index.html` that opens from disk, with every cell of every table and its details."""
