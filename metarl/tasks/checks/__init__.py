"""`metarl check-env`: what a task family must keep to, and how it is found out."""
