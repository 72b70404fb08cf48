"""Agents, one module per algorithm; ``agent.name`` in a config is the module's name."""
