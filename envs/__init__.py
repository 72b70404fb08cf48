"""Task distributions, one module per family; ``task.name`` in a config is the module's name."""
