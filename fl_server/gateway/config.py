"""The gateway's configuration file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fl_protocol.codes import Code, ConfigInvalid
from fl_server.gateway.database import is_url
from fl_server.gateway.limits import LoadLimits
from tee_sim.settings import load_settings, settings_from

_PATHS = (
    "tls_certificate", "tls_key", "issuer_key", "token_key", "audit_log", "launcher_socket",
    "hop_key", "journal_dir", "port_file",
)  # fmt: skip
LAST_PORT = 65535


@dataclass(frozen=True)
class GatewayConfig:
    """Everything one gateway process needs; relative paths start from the file's folder.

    Attributes
    ----------
    federation : str
        Federation name, bound into memberships and sealed updates.
    host, port : str, int
        Address to listen on; port 0 lets the kernel choose.
    tls_certificate, tls_key : str
        PEM files.
    issuer_key, token_key : str
        Raw Ed25519 private keys (32 bytes) for memberships and access tokens.
    registry : str
        What all gateways of the federation share: an SQLite file, or ``postgresql://…``; see
        `Database`.
    audit_log : str
        JSON log.
    launcher_socket : str
        Unix socket of the TEE launcher.
    hop_key : str
        File with the key shared with the launcher, 32 bytes.
    journal_dir : str
        Folder that keeps updates the enclave has not answered yet; none are kept if empty.
    port_file : str
        Receives the port once the gateway serves.
    token_ttl : int
        Life of an access token, seconds.
    token_key_lead : int
        Seconds that a new token-signing key is published before it signs.
    refresh_ttl : int
        Life of a refresh family, seconds.
    limits : LoadLimits
        Load bounds.
    behind_proxy : bool
        Whether callers without a token are told apart by ``x-forwarded-for``. Only where nobody
        can reach the gateway but by a proxy that overwrites it.
    parent_pid : int, optional
        End when this process ends.

    Raises
    ------
    ConfigInvalid
        There is no such port.
    """

    federation: str
    host: str
    port: int
    tls_certificate: str
    tls_key: str
    issuer_key: str
    token_key: str
    registry: str
    audit_log: str
    launcher_socket: str
    hop_key: str
    port_file: str
    journal_dir: str = ""
    token_ttl: int = 300
    token_key_lead: int = 0
    refresh_ttl: int = 7 * 24 * 3600
    limits: LoadLimits = field(default_factory=LoadLimits)
    behind_proxy: bool = False
    parent_pid: int | None = None

    def __post_init__(self) -> None:
        # gRPC takes what is left of any other number after a division by 65536.
        if not 0 <= self.port <= LAST_PORT:
            raise ConfigInvalid(Code.CONFIG_INVALID, f"there is no port {self.port}")

    def save(self, path: Path) -> None:
        """Write the configuration as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2, sort_keys=True))

    @classmethod
    def load(cls, path: Path) -> GatewayConfig:
        """Read a configuration file; raises ConfigInvalid naming what is wrong."""

        def registry(location: str) -> str:
            return location if is_url(location) else str(path.resolve().parent / location)

        return load_settings(
            cls,
            path,
            paths=_PATHS,
            limits=lambda members: settings_from(LoadLimits, members),
            registry=registry,
        )
