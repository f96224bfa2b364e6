"""Filters that keep a few hostile updates in a buffer from moving the model at will."""
