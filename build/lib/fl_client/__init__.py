"""The edge side: trainer, ClientApp and sealed uploads."""
