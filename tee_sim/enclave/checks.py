"""Everything a sealed update must satisfy before it is opened, in order, one code each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fl_protocol.codes import Code, EnvelopeRejected, UpdateRejected
from fl_protocol.encoding import b64url_decode
from fl_protocol.envelope import Header, verify_signature
from fl_protocol.membership import verify_membership
from strategies.reject import Reject, sentence
from strategies.update import FLOAT_BYTES
from tee_sim.policy import EnclavePolicy

CLOCK_SKEW_SECONDS = 60
MAX_LIFE_SECONDS = 86_400

# Members contribute again and again, and the issuer's key never changes: what was verified once
# stays so, byte for byte.
_verified_membership = lru_cache(maxsize=4096)(verify_membership)
_PARTS = ("protected", "wrap", "tags", "signature", "membership")


@dataclass(frozen=True)
class Sealed:
    """A sealed update as received, without its body."""

    protected: bytes
    wrap: bytes
    tags: bytes
    signature: bytes
    membership: bytes

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Sealed:
        """Read the parts of a request; raises EnvelopeRejected ``ENV_MALFORMED``."""
        try:
            return cls(*(b64url_decode(request[name]) for name in _PARTS))
        except (KeyError, TypeError, ValueError) as error:
            raise EnvelopeRejected(Code.ENV_MALFORMED) from error


@dataclass(frozen=True)
class Binding:
    """What every update must name: this enclave, its policy and the open run."""

    policy: EnclavePolicy
    epoch: int
    key_id: str
    run_id: str


@dataclass(frozen=True)
class History:
    """What the open run has made: digest by version, layout, and the oldest base allowed.

    ``handed_out`` is the newest version that anybody can have trained from; to say more of those
    after it would answer guesses about them. ``task_digest`` is that of the updates in the buffer,
    None while it is empty.
    """

    version: int
    handed_out: int
    digests: Mapping[int, str]
    manifest_digest: str
    num_params: int
    max_staleness: int
    task_digest: str | None


def authenticate(sealed: Sealed, header: Header, binding: Binding) -> None:
    """Check that an enrolled member made this update for this enclave and run.

    Raises
    ------
    EnvelopeRejected
        ``ENV_MEMBERSHIP``, ``ENV_IDENTITY``, ``ENV_RUN``, ``ENV_EPOCH``, ``ENV_KEY_ID``,
        ``ENV_POLICY`` or ``ENV_SIGNATURE``.
    """
    policy = binding.policy
    member = _verified_membership(sealed.membership, policy.issuer_public_key())
    _require(member.federation == policy.federation, Code.ENV_MEMBERSHIP)
    _require(member.role == "client", Code.ENV_MEMBERSHIP)
    _require(member.client_id == header.client_id, Code.ENV_IDENTITY)
    _require(header.federation == policy.federation, Code.ENV_RUN)
    _require(header.run_id == binding.run_id, Code.ENV_RUN)
    _require(header.epoch == binding.epoch, Code.ENV_EPOCH)
    _require(header.key_id == binding.key_id, Code.ENV_KEY_ID)
    _require(header.policy_digest == policy.digest, Code.ENV_POLICY)
    verify_signature(
        sealed.protected, sealed.wrap, sealed.tags, sealed.signature, member.public_key()
    )


def check_time(header: Header, now: float) -> None:
    """Check the validity time, at most a day long; raises EnvelopeRejected ``ENV_EXPIRED``."""
    _require(
        header.iat - CLOCK_SKEW_SECONDS <= now <= header.exp + CLOCK_SKEW_SECONDS
        and 0 <= header.exp - header.iat <= MAX_LIFE_SECONDS,
        Code.ENV_EXPIRED,
    )


def check_base(header: Header, history: History) -> None:
    """Check that the update was trained from a model this run released, not too long ago.

    Raises
    ------
    UpdateRejected
        ``UNKNOWN_BASE_VERSION``, ``TOO_STALE`` or ``WRONG_SHAPE``.
    EnvelopeRejected
        ``ENV_MODEL_DIGEST`` or ``ENV_MANIFEST``.
    """
    if header.base_version > history.handed_out:
        raise refused(Reject.UNKNOWN_BASE_VERSION)
    if history.version - header.base_version > history.max_staleness:
        raise refused(Reject.TOO_STALE)
    known = history.digests.get(header.base_version)
    if known is None:
        raise refused(Reject.UNKNOWN_BASE_VERSION)
    _require(header.base_model_digest == known, Code.ENV_MODEL_DIGEST)
    _require(header.manifest_digest == history.manifest_digest, Code.ENV_MANIFEST)
    if header.plain_len != FLOAT_BYTES * history.num_params:
        raise refused(Reject.WRONG_SHAPE)


def check_task(header: Header, history: History) -> None:
    """Check that the update was trained for the task of the others in its buffer.

    A server that sends some clients another task could make their updates known beforehand, and
    a release with them would show the rest; raises EnvelopeRejected ``ENV_TASK``.
    """
    _require(history.task_digest in (None, header.task_digest), Code.ENV_TASK)


def refused(code: Reject) -> UpdateRejected:
    """Return the error for a refusal of the aggregation engine."""
    return UpdateRejected(code, sentence(code))


def _require(holds: bool, code: Code) -> None:
    if not holds:
        raise EnvelopeRejected(code)
