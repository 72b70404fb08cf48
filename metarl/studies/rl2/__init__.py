"""`metarl reproduce rl2`: RL² on bandits and tabular MDPs, beside strategies from the literature."""
