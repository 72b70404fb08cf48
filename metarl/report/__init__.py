"""Pictures, tables and pages of what runs have recorded."""
