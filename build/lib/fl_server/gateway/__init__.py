"""The gateway: authenticates clients, bounds their load, relays sealed bytes to the enclave."""
