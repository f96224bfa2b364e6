"""What a run keeps on disk so that nothing acknowledged is lost and nothing counts twice.

An update goes into the `journal` before it counts, a merge into the `ledger` before anybody sees
it; from a `checkpoint` and the journal behind it the run continues bit for bit.
"""
