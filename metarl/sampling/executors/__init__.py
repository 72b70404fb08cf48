"""Where units of work run: in this process, or in worker processes that may die without harm."""
