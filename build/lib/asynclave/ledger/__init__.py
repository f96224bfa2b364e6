"""``asynclave ledger``: what became of every update of a saved run."""
