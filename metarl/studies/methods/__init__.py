"""What studies share that compare methods at equal environment steps."""
