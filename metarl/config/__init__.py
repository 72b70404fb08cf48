"""Configuration: what the keys are, how a file and overrides become one validated value, and names to classes."""
