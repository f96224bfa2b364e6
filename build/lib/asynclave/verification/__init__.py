"""``asynclave verify-run``: whether a run's directory is what its enclaves signed."""
