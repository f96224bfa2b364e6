"""Quickstart: MNIST trained asynchronously by a Flower app."""
