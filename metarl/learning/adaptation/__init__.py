"""Inner steps: θ becomes θ − α∇L(θ) on the data of a task, and vectors go through these steps both ways."""
