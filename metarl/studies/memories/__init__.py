"""Memories that are written and memories that look up, on sequences to copy and recall, and on a bandit."""
