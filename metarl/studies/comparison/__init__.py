"""Methods of meta-learning at equal environment steps, beside methods without it."""
