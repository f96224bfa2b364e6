"""One-machine simulation: virtual clock, device models, federated data, Flower Grid."""
