"""The bundle a node is given: where the gateway is, how to enrol, which enclave to trust."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

from fl_protocol.codes import Code, ConfigInvalid
from fl_protocol.identity import Identity, IdentityStore
from fl_protocol.ports import Clock, Disk, LocalDisk, Rng, Transport
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.session import Session
from fl_protocol.storage import stored
from tee_sim.appraisal import TrustPolicy
from tee_sim.attestation import Attestor, EpochWitness
from tee_sim.policy import Guardrails
from tee_sim.quotes.verifiers import ROOT_KEYS, hardware_verifiers
from tee_sim.settings import load_settings
from tee_sim.trust_file import (
    REVOCATION_LISTS_FORM,
    is_minimum_tcb,
    is_revocation_lists,
    is_signers,
    listed_signers,
    located_lists,
    read_lists,
)

Carrier: TypeAlias = Callable[[Identity], Transport]


@dataclass(frozen=True)
class NodeConfig:
    """Settings of a client or of the server for one gateway.

    Attributes
    ----------
    gateway : str
        "host:port".
    ca_pem : str
        Certificates of the authorities the gateway's certificate must come from.
    federation : str
        Federation name.
    identity_dir : str
        Folder for this node's keys, relative to the bundle's; created on first use.
    ticket : str, optional
        Enrolment ticket, needed once.
    roots_of_trust : tuple of str
        Platforms whose evidence is believed. Simulated enclaves are refused unless "simulated"
        is named.
    simulated_root_pem : str
        Certificate the simulated platform's chain must end at.
    measurements : tuple of str
        Known enclave measurements, SHA-384 in hex.
    signers : dict
        By platform: digests of the keys one of which must have signed the enclave's code; any
        where there is no list.
    min_security_version : int
        Oldest acceptable enclave build.
    minimum_tcb : dict
        By hardware platform: least version of each named part of its trusted computing base.
    revocation_lists : dict
        By hardware platform: files of revocation lists, relative to the bundle's folder. They are
        read when a connection is prepared.
    allow_sept_ve : bool
        Whether a trust domain of Intel may lack SEPT_VE_DISABLE.
    policy_digest : str, optional
        Digest of the enclave policy that was agreed on; no other is accepted.
    guardrails : dict
        Members of `Guardrails`: the weakest enclave policy this node accepts, whatever was agreed.
    patience : float
        Seconds to keep trying while the gateway cannot be reached.
    run_patience : float
        Seconds to wait for the server to open the run again after an enclave restart.
    """

    gateway: str
    ca_pem: str
    federation: str
    identity_dir: str
    ticket: str | None = None
    roots_of_trust: tuple[str, ...] = ()
    simulated_root_pem: str = ""
    measurements: tuple[str, ...] = ()
    signers: dict[str, list[str]] = field(default_factory=dict)
    min_security_version: int = 0
    minimum_tcb: dict[str, dict[str, int]] = field(default_factory=dict)
    revocation_lists: dict[str, list[str]] = field(default_factory=dict)
    allow_sept_ve: bool = False
    policy_digest: str | None = None
    guardrails: dict[str, Any] = field(default_factory=dict)
    patience: float = 30.0
    run_patience: float = 10.0

    PATHS: ClassVar[tuple[str, ...]] = ("identity_dir",)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a bundle; raises ConfigInvalid naming what is wrong."""
        folder = Path(path).resolve().parent
        return load_settings(
            cls,
            Path(path),
            paths=cls.PATHS,
            revocation_lists=lambda named: located_lists(named, folder),
        )

    def save(self, path: Path) -> None:
        """Write the bundle as JSON, mode 0600 because it may hold a ticket."""
        text = json.dumps(asdict(self), indent=2, sort_keys=True)
        LocalDisk().write_atomic(path, text.encode(), 0o600)

    def trust_policy(self) -> TrustPolicy:
        """Return what this node demands of an enclave; raises ConfigInvalid."""
        if type(self.allow_sept_ve) is not bool:
            raise ConfigInvalid(Code.CONFIG_INVALID, "allow_sept_ve is true or false.")
        if not is_signers(self.signers):
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                "signers has lists of digests: 64 hexadecimal digits for intel-sgx, 96 for "
                "amd-sev-snp.",
            )
        if not is_minimum_tcb(self.minimum_tcb):
            raise ConfigInvalid(
                Code.CONFIG_INVALID,
                "minimum_tcb has a table of whole numbers for any of the platforms "
                f"{', '.join(ROOT_KEYS)}.",
            )
        if not is_revocation_lists(self.revocation_lists):
            raise ConfigInvalid(Code.CONFIG_INVALID, REVOCATION_LISTS_FORM)
        return TrustPolicy(
            roots_of_trust=self.roots_of_trust,
            simulated_root_pem=self.simulated_root_pem,
            measurements=self.measurements,
            signers=listed_signers(self.signers),
            min_security_version=self.min_security_version,
            policy_digest=self.policy_digest,
            guardrails=Guardrails.from_members(self.guardrails),
            federation=self.federation,
            verifiers=hardware_verifiers(),
            minimum_tcb=self.minimum_tcb,
            revocation_lists=read_lists(self.revocation_lists),
            allow_sept_ve=self.allow_sept_ve,
        )


@dataclass(frozen=True)
class Connection:
    """A node's session with its gateway and the enclave it has appraised behind it."""

    session: Session
    attestor: Attestor
    store: IdentityStore


def connect(
    config: NodeConfig,
    clock: Clock,
    rng: Rng,
    *,
    disk: Disk | None = None,
    carrier: Carrier | None = None,
) -> Connection:
    """Prepare a connection; nothing is sent yet.

    Parameters
    ----------
    config : NodeConfig
        The node's bundle.
    clock, rng : Clock, Rng
        Time and randomness.
    disk : Disk, optional
        Where the identity is kept; the local disk by default.
    carrier : callable, optional
        Makes what carries the calls of an identity; gRPC over TLS by default.

    Raises
    ------
    ConfigInvalid, EnrolmentRejected, StorageFailed
        The bundle or the identity folder is not usable.
    """
    folder = Path(config.identity_dir)
    store = IdentityStore(folder, disk)
    with stored(str(folder)):
        identity = store.load_or_create(rng)
        session = Session(
            config.gateway,
            config.ca_pem.encode(),
            identity,
            config.ticket,
            clock,
            rng,
            store=store,
            patience=config.patience,
            transport=None if carrier is None else carrier(identity),
        )

    def get_evidence(nonce: bytes) -> bytes:
        reply = session.call("GetEvidence", pb.EvidenceRequest(nonce=nonce))
        return bytes(reply.evidence)

    witness = EpochWitness(folder / "epoch", disk)
    return Connection(
        session, Attestor(get_evidence, config.trust_policy(), witness, clock, rng), store
    )
