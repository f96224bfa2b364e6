"""Local training of many clients at once, each from its own base version.

`order` says which examples a task sees, `losses` what it trains on, `base` what a trainer offers;
`dense` (numpy, multi-layer perceptrons and logistic regression), `vmapped` (most stateless modules,
by way of `step_graph`) and `flat` (any module, one client at a time) are the trainers and `choice`
picks one.
"""
