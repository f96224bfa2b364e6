"""What runs inside the enclave process; it imports neither gRPC nor any learning framework."""
