"""What draws pictures of task families. A run draws none, and imports nothing of this."""
