"""A learned update rule, Meta-LSTM, beside gradient steps of fixed and of learned size, at equal environment steps."""
