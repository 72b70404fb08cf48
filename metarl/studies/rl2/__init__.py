"""RL² on bandits and tabular MDPs, beside strategies from the literature on the same tasks."""
