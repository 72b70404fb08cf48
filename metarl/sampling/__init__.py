"""Sampling: tasks and parameters in, trajectories out, the same bits wherever and by however many it is done."""
