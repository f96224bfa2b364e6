"""Worlds of the confidential path: gateway, enclave, server and nodes, all in one process.

What is simulated is time, disks, the network, chance and the death of processes; the rest is the
code of production, cryptography included.
"""
