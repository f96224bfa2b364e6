"""Keeps a Flower SuperNode running: ``python -m fl_client.supernode``."""
