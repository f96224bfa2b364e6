"""Real processes, killed for real: clients, gateway, enclave and server on one machine."""
