"""Every family of meta-learning in one small setting: what it learns, what it needs, what comes of it."""
