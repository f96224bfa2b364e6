"""What a local stack is told: the enclave's policy and the gateway's bounds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from fl_server.gateway.limits import LoadLimits
from strategies.privacy.settings import Privacy
from strategies.recipe import Recipe
from strategies.recipes.async_wa import AsyncWA
from strategies.release import ReleaseRule
from tee_sim.node_config import NodeConfig
from tee_sim.policy import EnclavePolicy


def _default_recipe() -> Recipe:
    return AsyncWA(buffer_size=4, disjoint=True)


@dataclass(frozen=True)
class StackSettings:
    """Settings of a local stack.

    Attributes
    ----------
    recipe : Recipe
        The only aggregation recipe the enclave will run.
    k : int
        Fewest distinct clients in a release.
    federation : str
        Federation name.
    max_per_client, max_share, min_effective, max_leverage
        See `EnclavePolicy`.
    max_staleness, max_norm, max_examples, dp
        See `EnclavePolicy`.
    token_ttl : int
        Life of access tokens, seconds.
    limits : LoadLimits
        Load bounds of the gateway.
    journal : bool
        Whether the gateway keeps updates on disk until the enclave has answered.
    gateways : int
        How many gateways share the enclave.
    behind_proxy : bool
        See `GatewayConfig`.
    registry : str
        PostgreSQL address of the registry; a file in the stack's folder if empty.
    node_patience, run_patience : float
        Written into the bundles; see `NodeConfig`.
    """

    recipe: Recipe = field(default_factory=_default_recipe)
    k: int = 4
    federation: str = "local"
    max_per_client: int = 1
    max_share: float | None = None
    min_effective: float | None = None
    max_leverage: float | None = None
    max_staleness: int = 100
    max_norm: float = math.inf
    max_examples: int = 1_000_000
    dp: Privacy | None = None
    token_ttl: int = 300
    limits: LoadLimits = field(default_factory=LoadLimits)
    journal: bool = True
    gateways: int = 1
    behind_proxy: bool = False
    registry: str = ""
    node_patience: float = 30.0
    run_patience: float = 10.0

    @property
    def share_bound(self) -> float:
        """Largest share of a release that one client may have."""
        rule = ReleaseRule(self.k, self.max_per_client, self.max_share, self.min_effective)
        return rule.share_bound

    def policy(self, issuer_key: str) -> EnclavePolicy:
        """Return the enclave's policy.

        Parameters
        ----------
        issuer_key : str
            Raw Ed25519 public key that signs memberships, base64url.
        """
        return EnclavePolicy(
            federation=self.federation,
            recipe={"name": self.recipe.name, "options": self.recipe.options()},
            k=self.k,
            issuer_key=issuer_key,
            max_per_client=self.max_per_client,
            max_share=self.max_share,
            min_effective=self.min_effective,
            max_leverage=self.max_leverage,
            max_staleness=self.max_staleness,
            max_norm=self.max_norm,
            max_examples=self.max_examples,
            dp=self.dp,
        )

    def bundle(
        self,
        *,
        gateway: str,
        ca_pem: str,
        identity_dir: str,
        ticket: str,
        root_pem: str,
        measurement: str,
        policy: EnclavePolicy,
    ) -> NodeConfig:
        """Return a node's bundle, which trusts this simulated enclave and no other policy.

        Parameters
        ----------
        gateway, ca_pem, identity_dir, ticket
            See `NodeConfig`.
        root_pem : str
            The simulated platform's root.
        measurement : str
            The enclave's measurement, SHA-384 in hex.
        policy : EnclavePolicy
            What was agreed on.
        """
        return NodeConfig(
            gateway=gateway,
            ca_pem=ca_pem,
            federation=self.federation,
            identity_dir=identity_dir,
            ticket=ticket,
            roots_of_trust=("simulated",),
            simulated_root_pem=root_pem,
            measurements=(measurement,),
            policy_digest=policy.digest,
            guardrails={
                "k_min": self.k,
                "max_per_client": self.max_per_client,
                "max_staleness": self.max_staleness,
                # Implies the bound on the effective number, too: shares of at most s mean
                # 1 / s clients or more.
                "max_share": self.share_bound,
                "max_leverage": self.max_leverage or 1.0,
                **_privacy_guardrails(self.dp),
            },
            patience=self.node_patience,
            run_patience=self.run_patience,
        )


def _privacy_guardrails(dp: Privacy | None) -> dict[str, float]:
    return {} if dp is None else {"max_epsilon": dp.max_epsilon, "max_delta": dp.delta}
