"""The mathematics of learning: returns, advantages, adaptation, the meta-objective and the trust region."""
