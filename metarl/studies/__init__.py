"""Studies that `metarl reproduce` can run: their runs, what the records come to, pages, strategies to compare with."""
