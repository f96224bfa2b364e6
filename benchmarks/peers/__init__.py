"""The same federated jobs on other simulators, each in an environment of its own.

``make peers`` installs them, ``python -m benchmarks.peers`` runs all of them in turn;
``docs/benchmarks.md`` says what is measured.
"""
