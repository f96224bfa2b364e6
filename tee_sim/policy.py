"""What an enclave promises to do, and the least a client insists on."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.records import NAME
from fl_protocol.signatures import KEY_BYTES
from strategies.errors import BadOption
from strategies.privacy.settings import Privacy

MAX_POLICY_BYTES = 8192
_NONE = "none"


@dataclass(frozen=True)
class EnclavePolicy:
    """The rules an enclave enforces; evidence carries them whole and updates name their digest.

    Parameters
    ----------
    federation : str
        Federation whose members may send updates: up to 128 letters, digits and ``._:@-``.
    recipe : Mapping
        ``{"name": str, "options": {str: str}}`` of the aggregation recipe, options as
        ``Recipe.options()`` writes them.
    k : int
        Smallest number of distinct clients in a release.
    issuer_key : str
        Raw Ed25519 public key that signs memberships, base64url.
    max_per_client : int
        Most updates of one client in a release.
    max_share : float, optional
        Largest share of the weight one client may have; 2 / k when None.
    min_effective : float, optional
        Smallest effective number of clients; k / 2 when None, and no less than 1.5.
    max_leverage : float, optional
        Largest leverage of a single update with k - 1 clients colluding; no bound when None.
    max_staleness : int
        Most versions an update may lag behind.
    max_norm : float
        Largest L2 norm of an update.
    max_examples : int
        Largest number of examples a client may claim.
    dp : Privacy, optional
        Differential privacy of the releases of a run; ``max_norm`` then refuses nothing.

    Raises
    ------
    ConfigInvalid
        ``CONFIG_INVALID`` naming the field that does not fit.
    """

    federation: str
    recipe: Mapping[str, Any]
    k: int
    issuer_key: str
    max_per_client: int = 1
    max_share: float | None = None
    min_effective: float | None = None
    max_leverage: float | None = None
    max_staleness: int = 100
    max_norm: float = math.inf
    max_examples: int = 1_000_000
    dp: Privacy | None = None

    def __post_init__(self) -> None:
        _require(NAME.allows(self.federation), "federation")
        _require(_is_recipe(self.recipe), "recipe")
        for name, low in (("k", 2), ("max_per_client", 1), ("max_staleness", 0)):
            value = getattr(self, name)
            _require(type(value) is int and value >= low, name)
        _require(type(self.max_examples) is int and self.max_examples >= 1, "max_examples")
        _require(_is_positive(self.max_norm), "max_norm")
        for name in ("max_share", "min_effective", "max_leverage"):
            value = getattr(self, name)
            _require(value is None or (_is_positive(value) and math.isfinite(value)), name)
        _require(self.dp is None or isinstance(self.dp, Privacy), "dp")
        _require(len(self.encode()) <= MAX_POLICY_BYTES, "recipe")
        self.issuer_public_key()

    def issuer_public_key(self) -> bytes:
        """Return the issuer's raw key, 32 bytes."""
        try:
            key = b64url_decode(self.issuer_key)
        except (ValueError, TypeError, AttributeError):
            key = b""
        _require(len(key) == KEY_BYTES, "issuer_key")
        return key

    def to_members(self) -> dict[str, Any]:
        """Return the policy as canonical-JSON members: numbers with a fraction as strings."""
        return {
            "federation": self.federation,
            "recipe": {
                "name": self.recipe["name"],
                "options": dict(self.recipe["options"]),
            },
            "k": self.k,
            "issuer_key": self.issuer_key,
            "max_per_client": self.max_per_client,
            "max_share": _text(self.max_share),
            "min_effective": _text(self.min_effective),
            "max_leverage": _text(self.max_leverage),
            "max_staleness": self.max_staleness,
            "max_norm": _text(self.max_norm),
            "max_examples": self.max_examples,
            "dp": _NONE if self.dp is None else self.dp.texts(),
        }

    def encode(self) -> bytes:
        """Return the canonical JSON that `digest` covers."""
        try:
            return canonical.encode(self.to_members())
        except CanonicalError as error:
            raise ConfigInvalid(Code.CONFIG_INVALID, f"Enclave policy: {error}.") from error

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def from_members(cls, members: object) -> EnclavePolicy:
        """Read what `to_members` wrote; raises ConfigInvalid."""
        try:
            if not isinstance(members, dict):
                raise TypeError("a policy is an object")
            fractions = {
                "max_share": _number_or_none(members["max_share"]),
                "min_effective": _number_or_none(members["min_effective"]),
                "max_leverage": _number_or_none(members["max_leverage"]),
                "max_norm": _number(members["max_norm"]),
            }
            dp = None if members["dp"] == _NONE else Privacy.from_texts(members["dp"])
            policy = cls(**{**members, **fractions, "dp": dp})
        except BadOption as error:
            raise ConfigInvalid(Code.CONFIG_INVALID, f"Enclave policy: {error.sentence}") from error
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ConfigInvalid(
                Code.CONFIG_INVALID, "The enclave policy has missing, unknown or wrong members."
            ) from None
        _require(policy.to_members() == members, "number format")
        return policy


# Whether a bound is a whole number, its least and its largest value.
_BOUNDS: Mapping[str, tuple[bool, float, float]] = MappingProxyType(
    {
        "k_min": (True, 1, math.inf),
        "max_per_client": (True, 1, math.inf),
        "max_staleness": (True, 0, math.inf),
        "max_share": (False, 0.0, 1.0),
        "max_leverage": (False, 0.0, 1.0),
        "max_epsilon": (False, 0.0, math.inf),
        "max_delta": (False, 0.0, 1.0),
    }
)


@dataclass(frozen=True)
class Guardrails:
    """The weakest policy a client accepts, whatever was agreed.

    Parameters
    ----------
    k_min : int
        Fewest distinct clients its update may be mixed among.
    max_per_client : int
        Most updates of one client in a release.
    max_staleness : int
        Most versions the enclave may let an update lag behind.
    max_share : float
        Largest share of a release one client may have.
    max_leverage : float
        Largest leverage a single update may have with k - 1 clients colluding.
    max_epsilon, max_delta : float
        Weakest differential privacy of all releases of a run together; infinite and 1 allow none.
    """

    k_min: int = 2
    max_per_client: int = 1
    max_staleness: int = 1000
    max_share: float = 1.0
    max_leverage: float = 1.0
    max_epsilon: float = math.inf
    max_delta: float = 1.0

    @classmethod
    def from_members(cls, members: Mapping[str, Any]) -> Guardrails:
        """Return the bounds that a file has; raises ConfigInvalid naming what does not fit."""
        for name, value in members.items():
            whole, least, most = _BOUNDS.get(name, (True, math.inf, -math.inf))
            kinds = (int,) if whole else (int, float)
            if type(value) not in kinds or not least <= value <= most:
                raise ConfigInvalid(
                    Code.CONFIG_INVALID,
                    f"guardrails: {name} = {value!r} is not known or not valid; there are "
                    f"{', '.join(_BOUNDS)}.",
                )
        return cls(**members)

    def check(self, policy: EnclavePolicy) -> None:
        """Compare a policy with these bounds.

        Raises
        ------
        EvidenceRejected
            ``EVIDENCE_GUARDRAIL`` naming the bound that is weaker.
        """
        leverage = 1.0 if policy.max_leverage is None else policy.max_leverage
        share = min(1.0, 2 / policy.k) if policy.max_share is None else policy.max_share
        epsilon = math.inf if policy.dp is None else policy.dp.max_epsilon
        delta = 1.0 if policy.dp is None else policy.dp.delta
        bounds = (
            (policy.k >= self.k_min, "k", policy.k, self.k_min),
            (
                policy.max_per_client <= self.max_per_client,
                "max_per_client",
                policy.max_per_client,
                self.max_per_client,
            ),
            (
                policy.max_staleness <= self.max_staleness,
                "max_staleness",
                policy.max_staleness,
                self.max_staleness,
            ),
            (share <= self.max_share, "max_share", share, self.max_share),
            (leverage <= self.max_leverage, "max_leverage", leverage, self.max_leverage),
            (epsilon <= self.max_epsilon, "max_epsilon", epsilon, self.max_epsilon),
            (delta <= self.max_delta, "delta", delta, self.max_delta),
        )
        for holds, name, actual, bound in bounds:
            if not holds:
                raise EvidenceRejected(
                    Code.EVIDENCE_GUARDRAIL,
                    f"The enclave's policy has {name} = {actual}, this client's bound is {bound}.",
                )


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise ConfigInvalid(Code.CONFIG_INVALID, f"Enclave policy: {field} is not valid.")


def _is_recipe(recipe: object) -> bool:
    if not isinstance(recipe, Mapping) or set(recipe) != {"name", "options"}:
        return False
    options = recipe["options"]
    return (
        type(recipe["name"]) is str
        and isinstance(options, Mapping)
        and all(type(key) is str and type(value) is str for key, value in options.items())
    )


def _is_positive(value: object) -> bool:
    return type(value) in (int, float) and value > 0  # type: ignore[operator]


def _text(value: float | None) -> str:
    return _NONE if value is None else repr(float(value))


def _number(text: object) -> float:
    if type(text) is not str:
        raise ValueError("not a decimal string")
    return float(text)


def _number_or_none(text: object) -> float | None:
    return None if text == _NONE else _number(text)
