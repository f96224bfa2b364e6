"""The gRPC contract; the stubs beside it are generated from gateway.proto."""
