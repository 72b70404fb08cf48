"""``metarl compare``: people's own runs, grouped into methods and held against each other."""
