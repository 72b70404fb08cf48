"""A run: its parts put together, its loop, its evaluation, its checkpoints and its directory."""
