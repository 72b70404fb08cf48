"""`metarl reproduce comparison`: methods at equal environment steps."""
