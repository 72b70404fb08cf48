"""Where the numbers of a run go while it goes on: a file, Weights & Biases, the console."""
