"""Experiments: one script per figure, each with its configuration and its page under ``docs/``."""
