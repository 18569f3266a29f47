"""What a run leaves on disk: its row and its checkpoints."""
