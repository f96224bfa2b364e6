"""Asynchronous strategies for Flower: replace ``FedAvg(...)`` by ``AsyncWA(...)``."""

from fl_server.strategy.async_strategy import AsyncStrategy
from fl_server.strategy.async_wa import AsyncWA
from fl_server.strategy.events import EvaluationEvent, Event, MergeEvent, Observer, UpdateEvent
from fl_server.strategy.fedasync import FedAsync
from fl_server.strategy.fedbuff import FedBuff
from fl_server.strategy.pacing import NoProgress

__all__ = [
    "AsyncStrategy",
    "AsyncWA",
    "EvaluationEvent",
    "Event",
    "FedAsync",
    "FedBuff",
    "MergeEvent",
    "NoProgress",
    "Observer",
    "UpdateEvent",
]
