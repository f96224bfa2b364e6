"""What faults need of the machine beside processes; what it does not give is left out, and told."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from asynclave.chaos.real.namespaces import NetworkNamespace
from asynclave.chaos.real.proxy import FaultProxy
from asynclave.chaos.real.volumes import Volume

_Made = TypeVar("_Made")


class Equipment:
    """Volumes and networks of the processes of a chaos run.

    Attributes
    ----------
    volumes : dict of str to Volume
        By what is kept on them.
    networks : list of NetworkNamespace
        Of the clients, by number.
    left_out : dict of str to str
        Kinds of faults that this machine does not let us inflict, and why.
    """

    def __init__(self) -> None:
        self.volumes: dict[str, Volume] = {}
        self.networks: list[NetworkNamespace] = []
        self.left_out: dict[str, str] = {}

    def mount(self, folders: dict[str, Path]) -> None:
        """Mount a volume on each folder; before anything is written there."""
        for name, folder in folders.items():
            volume = self._try("disk full", partial(Volume, folder))
            if volume is None:
                # All or none.
                self._unmount()
                return
            self.volumes[name] = volume

    def connect(self, proxy: FaultProxy, num_clients: int) -> None:
        """Give every client a network of its own, in which only the proxy can be reached."""
        for _ in range(num_clients):
            network = self._try("link", partial(NetworkNamespace, proxy.port))
            if network is None:
                self._disconnect()
                return
            self.networks.append(network)
            proxy.listen_on(network.listener)

    def command(self, client: int, command: list[str]) -> list[str]:
        """Return the command that runs a client's program in its network."""
        return self.networks[client].command(*command) if self.networks else command

    def close(self) -> None:
        """Give everything back."""
        self._disconnect()
        self._unmount()

    def _disconnect(self) -> None:
        while self.networks:
            self.networks.pop().close()

    def _unmount(self) -> None:
        while self.volumes:
            self.volumes.popitem()[1].unmount()

    def _try(self, kind: str, make: Callable[[], _Made]) -> _Made | None:
        try:
            return make()
        except OSError as error:
            self.left_out[kind] = str(error)
            return None
