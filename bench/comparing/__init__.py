"""Two sets of rows side by side: what changed from commit to commit."""
