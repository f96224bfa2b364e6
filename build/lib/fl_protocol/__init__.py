"""The contract between client, gateway, server and enclave: messages, credentials, sealed updates.

This package imports nothing by itself, so a process that needs only the envelope (the enclave)
never loads gRPC.
"""
