"""User-level differential privacy of what a merge releases."""
