"""metarl in Python: train, load a trained agent, let it adapt to an environment, act. Named by ``import metarl``."""
