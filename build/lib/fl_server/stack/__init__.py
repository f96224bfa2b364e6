"""A gateway and a simulated enclave on this machine, as real processes."""

from fl_server.stack.local import LocalStack
from fl_server.stack.settings import StackSettings

__all__ = ["LocalStack", "StackSettings"]
