"""Where replies go: into an engine in this process, or to an enclave behind a gateway."""
