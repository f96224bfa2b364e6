"""The simulated trusted execution environment: platform, measured enclave process, appraisal.

This package imports nothing by itself: the enclave, the launcher and a client that only appraises
evidence each load what they need.
"""
