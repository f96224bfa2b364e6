"""A Flower grid on virtual time: unmodified ClientApps, simulated devices."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from flwr.app import Context, Error, Message, MessageType, RecordDict, UserConfig
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from fl_sim.clock import VirtualClock
from fl_sim.devices import Course, DeviceModel, Devices
from fl_sim.failures import Failures, Fate
from fl_sim.flwr_compat import ErrorCode, Run, adopt_identity, detach, snapshot, stamp

FIRST_NODE_ID = 101
"""Node number of client 0; Flower keeps 1 for the SuperLink."""
_FAILURES = {
    Fate.DROPS_OUT: (ErrorCode.NODE_UNAVAILABLE, "The node dropped out."),
    Fate.GOES_SILENT: (ErrorCode.MESSAGE_UNAVAILABLE, "Time-to-live passed."),
    Fate.LEAVES: (ErrorCode.NODE_UNAVAILABLE, "The node has left."),
}


@dataclass(frozen=True)
class Presence:
    """When a node is connected.

    Attributes
    ----------
    joins : float (default: 0.0)
        Time in seconds at which the node connects.
    leaves : float (default: infinity)
        Time in seconds at which it disappears; its running task is lost.
    """

    joins: float = 0.0
    leaves: float = math.inf


@dataclass
class _Task:
    """A message under way: when the server hears of its end, and how that is."""

    message: Message
    due: float
    fate: Fate


@dataclass
class _Node:
    context: Context
    presence: Presence
    num_tasks: Counter[bool] = field(default_factory=Counter)
    """Training tasks and evaluations so far, by whether they evaluate."""
    busy_until: float = 0.0
    leaves: float = -math.inf
    """When it leaves, losing its tasks, as far as it has any."""


class VirtualGrid(Grid):
    """Runs a ClientApp on simulated devices in virtual time.

    What becomes of tasks is up to `devices`; the ClientApp itself runs in this process at the
    moment its reply is delivered. `pull_messages` delivers one reply at a time, in the order of
    virtual time; with nothing ready it advances the clock to the next completion (but not past
    the alarm of the clock). A node works on its messages one after the other; the answer to a
    query takes no time of its own.

    A node that is offline is not connected: it is not listed and takes no messages. Its task
    pauses and is answered once the node has come back and finished it. A task that breaks off is
    answered with an error at that moment, and so are all tasks of a node that leaves or dies.

    Parameters
    ----------
    client_app : ClientApp
        The app every node runs.
    num_nodes : int
        Number of nodes. Node `i` gets the node config ``{"partition-id": i,
        "num-partitions": num_nodes}``.
    devices : DeviceModel, optional
        A `Devices`, or a `Fleet` as `fleet_from` makes it from a simulation's configuration; if
        unset every training task takes exactly one second.
    run_config : mapping, optional
        The run config every ClientApp sees.
    failures : Failures, optional
        Failing tasks, beside those that `devices` let fail; none if unset.
    presence : mapping of int to Presence, optional
        Clients that join late or leave early.
    node_configs : mapping of int to dict, optional
        Further node config entries by client.
    run_id : int (default: 1)
        Flower run id.
    start : float (default: 0.0)
        Virtual time at the beginning, in seconds; above 0 for a run that is continued.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        devices: DeviceModel | None = None,
        run_config: UserConfig | None = None,
        *,
        failures: Failures | None = None,
        presence: Mapping[int, Presence] | None = None,
        node_configs: Mapping[int, UserConfig] | None = None,
        run_id: int = 1,
        start: float = 0.0,
    ) -> None:
        self.clock = VirtualClock(start)
        self._app = client_app
        if devices is None:
            devices = Devices(seconds=(1.0,) * num_nodes, jitter=0.0)
        if len(devices) != num_nodes:
            raise ValueError(f"{len(devices)} devices for {num_nodes} nodes")
        self._devices = devices
        self._failures = failures or Failures()
        self._run = Run.create_empty(run_id)
        self._tasks: dict[str, _Task] = {}
        self._num_messages = 0
        self._nodes = {
            FIRST_NODE_ID + client: _Node(
                context=Context(
                    run_id=run_id,
                    node_id=FIRST_NODE_ID + client,
                    node_config={
                        "partition-id": client,
                        "num-partitions": num_nodes,
                        **(node_configs or {}).get(client, {}),
                    },
                    state=RecordDict(),
                    run_config=dict(run_config or {}),
                ),
                presence=(presence or {}).get(client, Presence()),
            )
            for client in range(num_nodes)
        }
        adopt_identity(run_id)

    def set_run(self, run: Run) -> None:
        """Set the run this grid operates in."""
        self._run = run

    @property
    def run(self) -> Run:
        """Run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Create a message; prefer the ``Message`` constructor, as in Flower itself."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes connected now."""
        return self._connected(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Hand messages to their nodes.

        Returns
        -------
        list of str
            One message id per message, ``""`` where the node is not connected.
        """
        return [self._push(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the next reply to one of the given messages, advancing the clock to it.

        Returns
        -------
        list of Message
            One reply; none if none of the messages is under way or the clock's alarm comes
            first.
        """
        waiting = [i for i in message_ids if i in self._tasks]
        if not waiting:
            return []
        first = min(waiting, key=lambda i: (self._tasks[i].due, i))
        due = self._tasks[first].due
        if due > max(self.clock.alarm, self.clock.now()):
            self.clock.advance_to(self.clock.alarm)
            return []
        self.clock.advance_to(due)
        return [self._complete(first)]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Send messages and wait for all replies, at most `timeout` virtual seconds."""
        pending = set(self.push_messages(messages)) - {""}
        end = math.inf if timeout is None else self.clock.now() + timeout
        alarm = self.clock.alarm
        self.clock.set_alarm(end)
        replies: list[Message] = []
        while pending and (pulled := self.pull_messages(pending)):
            replies.extend(pulled)
            pending -= {reply.metadata.reply_to_message_id for reply in pulled}
        self.clock.set_alarm(alarm)
        return replies

    def _connected(self, node_ids: Collection[int]) -> list[int]:
        now = self.clock.now()
        ready = self._devices.ready([node_id - FIRST_NODE_ID for node_id in node_ids], now)
        return [
            node_id
            for node_id, at in zip(node_ids, ready.tolist(), strict=True)
            if at <= now and self._is_present(node_id, now)
        ]

    def _is_present(self, node_id: int, now: float) -> bool:
        presence = self._nodes[node_id].presence
        return presence.joins <= now < presence.leaves

    def _push(self, message: Message) -> str:
        node_id = message.metadata.dst_node_id
        if node_id not in self._nodes or not self._connected([node_id]):
            return ""
        self._num_messages += 1
        # Zero-padded, so that replies due at the same instant come in the order of sending.
        message_id = f"message-{self._num_messages:09d}"
        sent = snapshot(message, message_id)
        stamp(message, message_id)
        self._tasks[message_id] = self._schedule(sent, node_id)
        return message_id

    def _schedule(self, message: Message, node_id: int) -> _Task:
        node, now = self._nodes[node_id], self.clock.now()
        due, fate = self._course(node, message)
        if fate is Fate.LEAVES:
            node.leaves = due
        node.busy_until = due
        expiry = now + message.metadata.ttl
        if fate is Fate.GOES_SILENT or due > expiry:
            due, fate = expiry, Fate.GOES_SILENT
        if node.presence.leaves < due:
            due, fate = node.presence.leaves, Fate.LEAVES
        return _Task(message, due, fate)

    def _course(self, node: _Node, message: Message) -> Course:
        kind, now = message.metadata.message_type, self.clock.now()
        evaluate, query = (kind.startswith(k) for k in (MessageType.EVALUATE, MessageType.QUERY))
        number, start = node.num_tasks[evaluate], max(now, node.busy_until)
        node.num_tasks[evaluate] += not query
        if now < node.leaves:
            return Course(node.leaves, Fate.LEAVES)
        if query:
            return Course(start, Fate.COMPLETES)
        client = message.metadata.dst_node_id - FIRST_NODE_ID
        due, fate = self._devices.course(client, number, start, evaluate=evaluate)
        if fate is Fate.COMPLETES:
            fate, share = self._failures.fate(client, number, evaluate=evaluate)
            due = due if share == 1.0 else start + share * (due - start)
        return Course(due, fate)

    def _complete(self, message_id: str) -> Message:
        task = self._tasks.pop(message_id)
        if task.fate is Fate.COMPLETES:
            reply = self._run_app(task)
        else:
            reply = Message(Error(*_FAILURES[task.fate]), reply_to=task.message)
        stamp(reply, f"reply-to-{message_id}")
        return reply

    def _run_app(self, task: _Task) -> Message:
        context = self._nodes[task.message.metadata.dst_node_id].context
        try:
            reply = self._app(task.message, context)
        except Exception as error:
            # As a SuperNode does: whatever the user's code raises becomes an error reply.
            reason = f"{type(error).__name__}: {error}"
            return Message(
                Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=task.message
            )
        detach(reply)
        return reply
