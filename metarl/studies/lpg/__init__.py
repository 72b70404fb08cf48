"""A learned policy gradient, beside REINFORCE and A2C at equal environment steps, where it learned and elsewhere."""
