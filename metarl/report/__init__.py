"""Pictures, tables and pages of what runs have recorded; and the look and the numbers that these share."""
