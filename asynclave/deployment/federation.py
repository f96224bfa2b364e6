"""Make the folder of a federation over several machines: keys, certificates, bundles.

::

    federation.json   the choices
    authority/        ca.pem, ca.key: to be kept away from every machine below
    superlink/        TLS, the secret of its SuperExec, the nodes' public keys
    trusted/          the machine of gateway and enclave: TLS, keys, gateway-I.json, launcher.json,
                      platform/, registry.sqlite
    server/           the ServerApp's bundle, server.json
    nodes/NAME/       all that one node needs: ca.pem, node.env, client.json, flower.key, flower.pub

Each folder may be moved as a whole: paths inside start from the file they stand in.
"""

from __future__ import annotations

import dataclasses
import datetime
import errno
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from asynclave.deployment.errors import DeploymentCode, DeploymentError
from asynclave.deployment.flower import create_node_key
from asynclave.deployment.spec import check_buffer, save_fields, stack_settings
from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.ports import LocalDisk, Rng, SystemClock, SystemRng
from fl_protocol.storage import stored
from fl_server.gateway.config import LAST_PORT, GatewayConfig
from fl_server.gateway.issuer import create_ticket
from fl_server.gateway.registry import Registry, open_registry
from fl_server.intake.config import ServerConfig
from fl_server.stack.keys import HOP_KEY, ISSUER_KEY, TOKEN_KEY, create_keys
from fl_server.stack.pki import Authority
from tee_sim import image
from tee_sim.certificates import create_root
from tee_sim.launcher_config import LauncherConfig
from tee_sim.node_config import NodeConfig
from tee_sim.settings import load_settings

_MARK = "federation.json"
_AUTHORITY_DAYS = 3650
_CERTIFICATE_DAYS = 365
_SECRET_BYTES = 32
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# A last label of digits alone is that of an address.
_NAME = re.compile(rf"(?=.{{1,253}}$)({_LABEL}\.)*(?![0-9]+$){_LABEL}")
# Seconds in which a proxy has to fetch the key set again.
_KEY_LEAD = 600
_LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class FederationSpec:
    """The choices made at `init`.

    Parameters
    ----------
    nodes : int
        Number of nodes.
    hosts : tuple of str
        DNS names and IPv4 addresses of the server's machine; the nodes use the first. If empty,
        everything listens on loopback only.
    gateways : int
        Gateways that share one enclave. Several listen on loopback, on the ports after
        `gateway_port`, which is that of the proxy in front of them.
    buffer_size : int
        Updates per released model, of as many distinct nodes.
    federation : str
        Name of the federation.
    gateway_port, superlink_port : int
        Ports that the nodes use.
    ticket_hours : float
        How long the enrolment tickets can be redeemed, more than 0.

    Raises
    ------
    ConfigInvalid
        The choices contradict each other.
    """

    nodes: int
    hosts: tuple[str, ...] = ()
    gateways: int = 1
    buffer_size: int = 2
    federation: str = "local"
    gateway_port: int = 9443
    superlink_port: int = 9092
    ticket_hours: float = 72.0

    def __post_init__(self) -> None:
        check_buffer(self.nodes, self.buffer_size)
        for host in self.hosts:
            _require(_is_host(host), f"{host!r} is neither a DNS name nor an IPv4 address")
        proxies = int(self.gateways > 1)
        gateway_ports = range(self.gateway_port, self.gateway_port + self.gateways + proxies)
        _require(
            gateway_ports[-1] <= LAST_PORT,
            f"there are not enough ports from {self.gateway_port} on for all gateways",
        )
        _require(
            self.superlink_port not in gateway_ports,
            f"port {self.superlink_port} cannot be the SuperLink's and a gateway's at once",
        )
        hours = self.ticket_hours
        _require(0.0 < hours < math.inf, f"a ticket cannot be good for {hours} hours")

    @property
    def host(self) -> str:
        """Name of the server's machine that the nodes use."""
        return self.hosts[0] if self.hosts else _LOOPBACK[0]

    @property
    def listen(self) -> str:
        """Address to listen on."""
        return "0.0.0.0" if self.hosts else _LOOPBACK[0]

    @property
    def names(self) -> list[str]:
        """Names of the nodes."""
        return [f"node-{index}" for index in range(self.nodes)]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read from a JSON file; raises ConfigInvalid if it is damaged."""
        return load_settings(cls, path)


def init(directory: Path, spec: FederationSpec) -> bool:
    """Make a federation's folder, whole or not at all.

    Parameters
    ----------
    directory : Path
        New or empty.
    spec : FederationSpec
        The choices.

    Returns
    -------
    bool
        False if it was made with the same choices before, and nothing was touched.

    Raises
    ------
    DeploymentError
        STATE_DIR_IN_USE: there is something else, which stays as it is.
    StorageFailed
        It cannot be made there.
    """
    directory = directory.resolve()
    with stored(str(directory)):
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            _check_same(directory, spec)
            return False
        directory.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
        try:
            _Draft(draft, spec, SystemRng()).write()
            # Fails if something has come to be in the folder meanwhile.
            os.rename(draft, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise _in_use(directory, "it was filled by somebody else meanwhile") from error
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return True


def _check_same(directory: Path, spec: FederationSpec) -> None:
    if not (directory / _MARK).exists():
        raise _in_use(directory, "it holds files that are not a federation's")
    there = dataclasses.asdict(FederationSpec.load(directory / _MARK))
    other = [name for name, value in dataclasses.asdict(spec).items() if value != there[name]]
    if other:
        raise _in_use(directory, f"it holds a federation with other {', '.join(other)}")


def _in_use(directory: Path, why: str) -> DeploymentError:
    return DeploymentError(
        DeploymentCode.STATE_DIR_IN_USE,
        f"{directory} was left as it is: {why}; choose another directory.",
    )


def _is_host(text: str) -> bool:
    try:
        IPv4Address(text)
    except ValueError:
        return _NAME.fullmatch(text) is not None
    return True


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ConfigInvalid(Code.CONFIG_INVALID, otherwise)


class _Draft:
    def __init__(self, root: Path, spec: FederationSpec, rng: Rng) -> None:
        self._root, self._spec, self._rng = root, spec, rng
        self._clock = SystemClock()
        self._settings = dataclasses.replace(
            stack_settings(spec.buffer_size), federation=spec.federation
        )
        self._trusted = root / "trusted"

    def write(self) -> None:
        self._certify()
        self._policy = self._settings.policy(create_keys(self._trusted, self._rng))
        platform = self._trusted / "platform"
        platform.mkdir(mode=0o700)
        self._root_pem = create_root(platform).root.read_text()
        self._measurement = image.measure()
        LauncherConfig(
            state_dir="platform",
            socket="launcher.sock",
            policy=self._policy.to_members(),
            platform_key="platform/platform.key",
            platform_chain="platform/platform.pem",
            hop_key=HOP_KEY,
        ).save(self._trusted / "launcher.json")
        for index in range(self._spec.gateways):
            self._gateway(index).save(self._trusted / f"gateway-{index}.json")
        with open_registry(self._trusted / "registry.sqlite") as registry:
            for name in self._spec.names:
                self._write_node(name, self._bundle(registry, "client", name))
            server = ServerConfig(
                **vars(self._bundle(registry, "server", "server")), records_dir="records"
            )
        server.save(self._root / "server" / "server.json")
        (self._root / "server").chmod(0o700)
        save_fields(self._root / _MARK, dataclasses.asdict(self._spec))

    def _certify(self) -> None:
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        authority = Authority.create(now, _AUTHORITY_DAYS)
        hosts = tuple(dict.fromkeys((*self._spec.hosts, *_LOOPBACK)))
        for name in ("authority", "superlink", "trusted"):
            (self._root / name).mkdir(mode=0o700)
        authority.save(self._root / "authority")
        for name in ("superlink", "trusted"):
            authority.issue(self._root / name, hosts, now, _CERTIFICATE_DAYS)
        secret = self._root / "superlink" / "superexec.key"
        LocalDisk().write_atomic(secret, self._rng.bytes(_SECRET_BYTES))
        self._ca_pem = authority.pem

    def _gateway(self, index: int) -> GatewayConfig:
        proxied = self._spec.gateways > 1
        return GatewayConfig(
            federation=self._spec.federation,
            host=_LOOPBACK[0] if proxied else self._spec.listen,
            port=self._spec.gateway_port + index + proxied,
            tls_certificate="server.pem",
            tls_key="server.key",
            issuer_key=ISSUER_KEY,
            token_key=TOKEN_KEY,
            registry="registry.sqlite",
            audit_log=f"audit-{index}.jsonl",
            launcher_socket="launcher.sock",
            hop_key=HOP_KEY,
            port_file=f"gateway-{index}.port",
            journal_dir=f"journal-{index}",
            behind_proxy=proxied,
            token_key_lead=_KEY_LEAD if proxied else 0,
        )

    def _bundle(self, registry: Registry, role: str, name: str) -> NodeConfig:
        ttl = self._spec.ticket_hours * 3600.0
        ticket = create_ticket(registry, role, name, clock=self._clock, rng=self._rng, ttl=ttl)
        return self._settings.bundle(
            gateway=f"{self._spec.host}:{self._spec.gateway_port}",
            ca_pem=self._ca_pem.decode(),
            identity_dir="identity",
            ticket=ticket,
            root_pem=self._root_pem,
            measurement=self._measurement,
            policy=self._policy,
        )

    def _write_node(self, name: str, bundle: NodeConfig) -> None:
        folder = self._root / "nodes" / name
        folder.mkdir(parents=True)
        folder.chmod(0o700)
        bundle.save(folder / "client.json")
        key = create_node_key(folder, "flower.key")
        public = key.with_name("flower.key.pub").rename(folder / "flower.pub")
        disk = LocalDisk()
        disk.write_atomic(folder / "ca.pem", self._ca_pem, 0o644)
        keys = self._root / "superlink" / "nodes"
        disk.write_atomic(keys / f"{name}.pub", public.read_bytes(), 0o644)
        environment = (
            f"ASYNCLAVE_SUPERLINK={self._spec.host}:{self._spec.superlink_port}\n"
            f"ASYNCLAVE_PARTITION={self._spec.names.index(name)}\n"
            f"ASYNCLAVE_PARTITIONS={self._spec.nodes}\n"
        )
        disk.write_atomic(folder / "node.env", environment.encode(), 0o644)
