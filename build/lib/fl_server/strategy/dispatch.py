"""Which node works on what: one task per node, leases, back-off, joining and leaving."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

from strategies.selection import Selector, jain_index

FIRST_BACK_OFF = 1.0
LONGEST_BACK_OFF = 60.0
# More would overflow, and rests are at their longest long before.
_MOST_DOUBLINGS = 32


@dataclass(frozen=True)
class Task:
    """A message under way to a node.

    Attributes
    ----------
    message_id : str
        Id under which the grid will hand out the reply.
    node : int
        The node asked.
    version : int
        Model version sent.
    expires : float
        End of the lease, in seconds on the run's clock.
    evaluate : bool
        Whether this is an evaluation task rather than a training task.
    """

    message_id: str
    node: int
    version: int
    expires: float
    evaluate: bool = False


@dataclass
class _Node:
    failures: int = 0
    updates: int = 0
    resumes: float = -math.inf
    contributed_to: int | None = None


class Fleet:
    """Keeps account of nodes and tasks; replies are matched by message id only.

    The source named in a reply is not used: errors made by the SuperLink carry its own id.

    Parameters
    ----------
    rng : random.Random
        Draws idle nodes uniformly if there is no selector.
    selector : Selector, optional
        Chooses among idle nodes, and learns from their tasks.
    """

    def __init__(self, rng: random.Random, selector: Selector | None = None) -> None:
        self._rng, self._selector = rng, selector
        self._nodes: dict[int, _Node] = {}
        self._connected: frozenset[int] = frozenset()
        self._tasks: dict[str, Task] = {}
        self._retired: set[int] = set()

    @property
    def connected(self) -> list[int]:
        """The connected nodes, in ascending order."""
        return sorted(self._connected)

    @property
    def num_training(self) -> int:
        """Training tasks under way at connected nodes."""
        return sum(not t.evaluate and t.node in self._connected for t in self._tasks.values())

    def num_engaged(self, version: int) -> int:
        """Count the connected nodes that train from `version` or have contributed to it."""
        training = {t.node for t in self._tasks.values() if not t.evaluate and t.version == version}
        done = {n for n, node in self._nodes.items() if node.contributed_to == version}
        return len((training & self._connected) | done)

    @property
    def pending(self) -> list[str]:
        """Ids of the messages without a reply, in the order of sending."""
        return list(self._tasks)

    def connect(self, node_ids: Iterable[int]) -> None:
        """Note which nodes are connected now."""
        self._connected = frozenset(node_ids)
        for node_id in self._connected:
            self._nodes.setdefault(node_id, _Node())

    def idle(self) -> list[int]:
        """Return the connected nodes without a task, in ascending order."""
        busy = {task.node for task in self._tasks.values()}
        return sorted(self._connected - busy)

    def trainable(self, now: float, version: int) -> list[int]:
        """Return the idle nodes that may train from `version`, in ascending order.

        A node whose update from this very version was accepted waits for the next version:
        training from the same model again adds little but weight. Only if nobody else is at
        work or available is it asked again, so that a small federation never locks itself up.
        """
        rested = [n for n in self.idle() if self._nodes[n].resumes <= now]
        fresh = [n for n in rested if self._nodes[n].contributed_to != version]
        return fresh if fresh or self.num_training else rested

    def choose(self, now: float, version: int, count: int) -> list[int]:
        """Choose up to `count` nodes that train from `version` from the time `now` on."""
        candidates = self.trainable(now, version)
        if self._selector is None:
            return self._rng.sample(candidates, len(candidates))[:count]
        chosen = []
        for _ in range(min(count, len(candidates))):
            chosen.append(self._selector.choose(candidates, now))
            candidates.remove(chosen[-1])
        return chosen

    def start(self, task: Task) -> None:
        """Note a task handed to a node."""
        self._tasks[task.message_id] = task

    def finish(self, message_id: str) -> Task | None:
        """Forget a task and return it; None if it is unknown, for instance expired."""
        return self._tasks.pop(message_id, None)

    def expired(self, now: float) -> list[Task]:
        """Return the tasks whose lease has ended."""
        return [task for task in self._tasks.values() if task.expires <= now]

    def accepted(self, node: int, version: int) -> None:
        """Note that an update which a node trained from `version` was accepted."""
        state = self._nodes.setdefault(node, _Node())
        state.failures, state.contributed_to = 0, version
        state.updates += 1

    def trained(
        self, node: int, now: float, *, delivered: bool, utilisation: float | None = None
    ) -> None:
        """Let the selector learn from the end of a node's task; see `Selector.ended`."""
        if self._selector is not None:
            self._selector.ended(node, now, delivered=delivered, utilisation=utilisation)

    @property
    def fairness(self) -> float:
        """Jain's index of the accepted updates of all nodes ever connected."""
        return jain_index(node.updates for node in self._nodes.values())

    def back_off(self, node: int, now: float) -> float:
        """Give a node a rest that doubles with each failure in a row; return its length."""
        state = self._nodes[node]
        rest = min(FIRST_BACK_OFF * 2.0 ** min(state.failures, _MOST_DOUBLINGS), LONGEST_BACK_OFF)
        state.failures += 1
        state.resumes = now + rest
        return rest

    def retire(self, node: int) -> None:
        """Hand no more training tasks to a node."""
        self._nodes[node].resumes = math.inf
        self._retired.add(node)

    @property
    def num_left(self) -> int:
        """Connected nodes that are not retired."""
        return len(self._connected - self._retired)

    def versions_in_use(self) -> set[int]:
        """Return the versions somebody is training from."""
        return {task.version for task in self._tasks.values() if not task.evaluate}

    def next_change(self, now: float) -> float:
        """Return the next time in seconds at which a rest or a lease ends."""
        rests = (self._nodes[n].resumes for n in self._connected)
        leases = (task.expires for task in self._tasks.values())
        return min((t for t in (*rests, *leases) if t > now), default=math.inf)
