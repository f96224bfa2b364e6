"""Who is let in, put together from its parts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_protocol.ports import Clock, Rng
from fl_protocol.proof import SECONDS_USABLE, ProofNonces, ProofVerifier
from fl_server.gateway.audit import AuditLog
from fl_server.gateway.auth import Gatekeeper
from fl_server.gateway.authenticator import Authenticator
from fl_server.gateway.config import GatewayConfig
from fl_server.gateway.database import Database
from fl_server.gateway.issuer import GRANT_SECONDS, Issuer
from fl_server.gateway.limits import RateLimiter
from fl_server.gateway.registry import Registry
from fl_server.gateway.shared_memory import SharedReplayMemory
from fl_server.gateway.token_keys import TokenKeys
from tee_sim.settings import load_signing_key


@dataclass(frozen=True)
class Admission:
    """What gives out tokens, and what asks for them."""

    issuer: Issuer
    gatekeeper: Gatekeeper


def admission(
    config: GatewayConfig,
    database: Database,
    audit: AuditLog,
    hop_key: bytes,
    clock: Clock,
    rng: Rng,
) -> Admission:
    """Assemble what a gateway lets calls in with.

    Parameters
    ----------
    config : GatewayConfig
        Settings, and paths of the keys.
    database : Database
        What the gateways of a federation share.
    audit : AuditLog
        Gets a line of each call.
    hop_key : bytes
        The one secret that all gateways before an enclave have and no client does.
    clock, rng : Clock, Rng
        Time and randomness.
    """
    registry = Registry(database)
    token_keys = TokenKeys(Path(config.token_key), config.federation, clock, config.token_key_lead)
    issuer = Issuer(
        config,
        registry,
        membership_key=load_signing_key(Path(config.issuer_key)),
        token_keys=token_keys,
        nonces=SharedReplayMemory(database, "grant", GRANT_SECONDS),
        clock=clock,
        rng=rng,
    )
    nonces = ProofNonces(hop_key, clock)
    proofs, first_proofs = (
        ProofVerifier(clock, seen=SharedReplayMemory(database, kind, SECONDS_USABLE), nonces=nonces)
        for kind in ("proof", "first-proof")
    )
    limiter, refusals = (
        RateLimiter(config.limits.rate, config.limits.burst, clock) for _ in range(2)
    )
    gatekeeper = Gatekeeper(
        Authenticator(token_keys, proofs, first_proofs, registry),
        limiter,
        refusals,
        audit,
        config.limits,
        behind_proxy=config.behind_proxy,
    )
    return Admission(issuer, gatekeeper)
