"""Deterministic simulation of faults: the server's own code where everything around it fails.

A world runs the strategy, its intake, the journal and the ledger as they are, in virtual time,
kills them wherever they touch the outside, starts them again, and checks after every step that
nothing was lost and nothing counted twice. A seed decides everything, so one that fails can be
replayed.
"""
