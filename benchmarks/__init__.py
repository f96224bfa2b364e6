"""Benchmarks: ratios measured in one run, printed as JSON. Not tests: nothing here asserts."""
