"""Stable refusal codes, one sentence each, and the typed errors that carry them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Code(StrEnum):
    """Every refusal the protocol can answer; the value is what travels and what audits record."""

    TOKEN_MISSING = "TOKEN_MISSING"
    TOKEN_MALFORMED = "TOKEN_MALFORMED"
    TOKEN_SIGNATURE = "TOKEN_SIGNATURE"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_NOT_YET_VALID = "TOKEN_NOT_YET_VALID"
    TOKEN_CLAIMS = "TOKEN_CLAIMS"
    TOKEN_SCOPE = "TOKEN_SCOPE"
    TOKEN_REVOKED = "TOKEN_REVOKED"
    TOKEN_UNKNOWN_KEY = "TOKEN_UNKNOWN_KEY"
    REFRESH_REUSED = "REFRESH_REUSED"
    PROOF_MISSING = "PROOF_MISSING"
    PROOF_INVALID = "PROOF_INVALID"
    PROOF_REPLAYED = "PROOF_REPLAYED"
    PROOF_NONCE = "PROOF_NONCE"
    ENROL_TICKET_INVALID = "ENROL_TICKET_INVALID"
    ENROL_TICKET_USED = "ENROL_TICKET_USED"
    IDENTITY_INVALID = "IDENTITY_INVALID"
    EVIDENCE_MALFORMED = "EVIDENCE_MALFORMED"
    EVIDENCE_PLATFORM = "EVIDENCE_PLATFORM"
    EVIDENCE_CHAIN = "EVIDENCE_CHAIN"
    EVIDENCE_EXPIRED = "EVIDENCE_EXPIRED"
    EVIDENCE_REVOKED = "EVIDENCE_REVOKED"
    EVIDENCE_REVOCATION_LIST = "EVIDENCE_REVOCATION_LIST"
    EVIDENCE_SIMULATED_REFUSED = "EVIDENCE_SIMULATED_REFUSED"
    EVIDENCE_DEBUG = "EVIDENCE_DEBUG"
    EVIDENCE_ATTRIBUTES = "EVIDENCE_ATTRIBUTES"
    EVIDENCE_MEASUREMENT = "EVIDENCE_MEASUREMENT"
    EVIDENCE_SIGNER = "EVIDENCE_SIGNER"
    EVIDENCE_SECURITY_VERSION = "EVIDENCE_SECURITY_VERSION"
    EVIDENCE_TCB_VERSION = "EVIDENCE_TCB_VERSION"
    EVIDENCE_TCB_STATUS = "EVIDENCE_TCB_STATUS"
    EVIDENCE_REPORT_DATA = "EVIDENCE_REPORT_DATA"
    EVIDENCE_NONCE = "EVIDENCE_NONCE"
    EVIDENCE_EPOCH = "EVIDENCE_EPOCH"
    EVIDENCE_POLICY = "EVIDENCE_POLICY"
    EVIDENCE_GUARDRAIL = "EVIDENCE_GUARDRAIL"
    ENV_MALFORMED = "ENV_MALFORMED"
    ENV_SIGNATURE = "ENV_SIGNATURE"
    ENV_MEMBERSHIP = "ENV_MEMBERSHIP"
    ENV_KEY_ID = "ENV_KEY_ID"
    ENV_EPOCH = "ENV_EPOCH"
    ENV_POLICY = "ENV_POLICY"
    ENV_RUN = "ENV_RUN"
    ENV_SUITE = "ENV_SUITE"
    ENV_LENGTH = "ENV_LENGTH"
    ENV_DECRYPT = "ENV_DECRYPT"
    ENV_EXPIRED = "ENV_EXPIRED"
    ENV_REPLAY_MISMATCH = "ENV_REPLAY_MISMATCH"
    ENV_IDENTITY = "ENV_IDENTITY"
    ENV_MODEL_DIGEST = "ENV_MODEL_DIGEST"
    ENV_MANIFEST = "ENV_MANIFEST"
    ENV_TASK = "ENV_TASK"
    RUN_UNKNOWN = "RUN_UNKNOWN"
    RUN_MANIFEST = "RUN_MANIFEST"
    RUN_RECIPE = "RUN_RECIPE"
    RUN_REPEATED = "RUN_REPEATED"
    RUN_REGRESSED = "RUN_REGRESSED"
    RUN_MEMORY = "RUN_MEMORY"
    LEAKY_RECIPE = "LEAKY_RECIPE"
    DP_RECIPE = "DP_RECIPE"
    DP_CHANGED = "DP_CHANGED"
    RELEASE_NOT_READY = "RELEASE_NOT_READY"
    RECEIPT_INVALID = "RECEIPT_INVALID"
    GATEWAY_UNAVAILABLE = "GATEWAY_UNAVAILABLE"
    ENCLAVE_UNAVAILABLE = "ENCLAVE_UNAVAILABLE"
    REGISTRY_UNAVAILABLE = "REGISTRY_UNAVAILABLE"
    CIRCUIT_OPEN = "CIRCUIT_OPEN"
    OVERLOADED = "OVERLOADED"
    DEADLINE = "DEADLINE"
    TOO_LARGE = "TOO_LARGE"
    HOP_SIGNATURE = "HOP_SIGNATURE"
    HOP_STALE = "HOP_STALE"
    HOP_REPLAYED = "HOP_REPLAYED"
    HOP_BODY = "HOP_BODY"
    JOURNAL_FULL = "JOURNAL_FULL"
    JOURNAL_FAILED = "JOURNAL_FAILED"
    JOURNAL_DAMAGED = "JOURNAL_DAMAGED"
    JOURNAL_EPOCH_GONE = "JOURNAL_EPOCH_GONE"
    LEDGER_FAILED = "LEDGER_FAILED"
    LEDGER_DAMAGED = "LEDGER_DAMAGED"
    STATE_MISMATCH = "STATE_MISMATCH"
    STATE_IN_USE = "STATE_IN_USE"
    CONFIG_INVALID = "CONFIG_INVALID"
    CLIENT_FAILED = "CLIENT_FAILED"
    NO_PROGRESS = "NO_PROGRESS"
    INTERNAL = "INTERNAL"


SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        Code.TOKEN_MISSING: "Send an access token as 'authorization: DPoP <token>'.",
        Code.TOKEN_MALFORMED: "The access token is not a well-formed compact JWS; request another.",
        Code.TOKEN_SIGNATURE: "The access token was not signed by this issuer; request a new one.",
        Code.TOKEN_EXPIRED: "The access token has expired; request a new one.",
        Code.TOKEN_NOT_YET_VALID: "The access token is not valid yet; check this machine's clock.",
        Code.TOKEN_CLAIMS: "The access token was issued for another service or has wrong claims.",
        Code.TOKEN_SCOPE: "The access token's scope does not allow this call; use another role.",
        Code.TOKEN_REVOKED: "This credential was revoked; ask the operator for a new ticket.",
        Code.TOKEN_UNKNOWN_KEY: "The access token names a signing key that is not published.",
        Code.REFRESH_REUSED: "The refresh token was used twice, so its family is revoked; "
        "prove the identity key again.",
        Code.PROOF_MISSING: "Send a proof of possession in the 'dpop' metadata of the call.",
        Code.PROOF_INVALID: "The proof of possession does not fit this call, token, key or time.",
        Code.PROOF_REPLAYED: "This proof of possession was used before; make one per call.",
        Code.PROOF_NONCE: "Make a new proof with the nonce in the 'dpop-nonce' metadata of this "
        "refusal.",
        Code.ENROL_TICKET_INVALID: "The enrolment ticket is unknown or expired; ask for a new one.",
        Code.ENROL_TICKET_USED: "The enrolment ticket was used by another identity; "
        "ask the operator for a new one.",
        Code.IDENTITY_INVALID: "The identity key does not prove this client; "
        "check the identity folder or enrol again.",
        Code.EVIDENCE_MALFORMED: "The enclave's evidence could not be read.",
        Code.EVIDENCE_PLATFORM: "The platform of the evidence is not named in roots_of_trust.",
        Code.EVIDENCE_CHAIN: "The evidence is not signed by a platform with a trusted root.",
        Code.EVIDENCE_EXPIRED: "The evidence, a certificate of its chain or a revocation list is "
        "out of date.",
        Code.EVIDENCE_REVOKED: "A certificate of the evidence's chain has been revoked.",
        Code.EVIDENCE_REVOCATION_LIST: "Whether a certificate of the evidence's chain has been "
        "revoked cannot be told: its issuer's list is missing from revocation_lists or not signed "
        "by it.",
        Code.EVIDENCE_SIMULATED_REFUSED: "The enclave is simulated; to accept that, name "
        "'simulated' in roots_of_trust.",
        Code.EVIDENCE_DEBUG: "The enclave runs with debugging on, so its memory can be read.",
        Code.EVIDENCE_ATTRIBUTES: "The trust domain has an attribute that is reserved, or lacks "
        "SEPT_VE_DISABLE, so its host may raise #VE in it.",
        Code.EVIDENCE_MEASUREMENT: "The enclave runs code that is not on the list of known "
        "measurements; compare the installed versions.",
        Code.EVIDENCE_SIGNER: "The enclave's code is signed by nobody on the list of signers.",
        Code.EVIDENCE_SECURITY_VERSION: "The enclave's security version is too old.",
        Code.EVIDENCE_TCB_VERSION: "A part of the enclave's platform is older than minimum_tcb "
        "demands; update its firmware.",
        Code.EVIDENCE_TCB_STATUS: "The vendor's judgement of the enclave's platform is not among "
        "tcb_statuses, or nobody judged it.",
        Code.EVIDENCE_REPORT_DATA: "The evidence does not vouch for the keys beside it.",
        Code.EVIDENCE_NONCE: "The evidence does not answer this challenge.",
        Code.EVIDENCE_EPOCH: "The evidence is from an older enclave than one already seen.",
        Code.EVIDENCE_POLICY: "The enclave's policy is not the agreed one.",
        Code.EVIDENCE_GUARDRAIL: "The enclave's policy is weaker than this client allows.",
        Code.ENV_MALFORMED: "The sealed update's header could not be read.",
        Code.ENV_SIGNATURE: "The sealed update's signature does not match its sender.",
        Code.ENV_MEMBERSHIP: "The sender's membership statement is not valid here.",
        Code.ENV_KEY_ID: "The update was sealed to another enclave key; attest and seal again.",
        Code.ENV_EPOCH: "The enclave was restarted since the update was sealed; "
        "attest and seal again.",
        Code.ENV_POLICY: "The update was sealed under another policy; attest and seal again.",
        Code.ENV_RUN: "The update belongs to another run or federation.",
        Code.ENV_SUITE: "The update uses a cipher suite or version this enclave does not accept.",
        Code.ENV_LENGTH: "The sealed update's length does not match its header.",
        Code.ENV_DECRYPT: "The sealed update could not be opened; it was changed on the way "
        "or sealed to another key.",
        Code.ENV_EXPIRED: "The sealed update is outside its validity time; check the clock.",
        Code.ENV_REPLAY_MISMATCH: "This update id was used before with other content.",
        Code.ENV_IDENTITY: "The update names another client than the access token.",
        Code.ENV_MODEL_DIGEST: "The update was trained from another model than this version.",
        Code.ENV_MANIFEST: "The update's tensors do not match the run's layout.",
        Code.ENV_TASK: "The update was trained for another task than the others of its buffer; "
        "send all clients the same configuration.",
        Code.RUN_UNKNOWN: "The run is not open at this gateway; the server must open it first.",
        Code.RUN_MANIFEST: "The model sent does not match the run's layout.",
        Code.RUN_RECIPE: "The strategy asked for differs from the enclave's policy.",
        Code.RUN_REPEATED: "This node has contributed to this model of the run, or to a newer one, "
        "and does so once only; wait for the next version or begin a run under a new name.",
        Code.RUN_REGRESSED: "A release of this run was handed out that is newer than this model, "
        "or another; open it at its newest release, or begin a run under a new name.",
        Code.RUN_MEMORY: "What the enclave sealed about this run cannot be stored, or not be read "
        "back as it was; see to the platform's disk, or begin a run under a new name.",
        Code.LEAKY_RECIPE: "This strategy would let single updates be computed from its releases, "
        "so it cannot run confidentially.",
        Code.DP_RECIPE: "With this strategy what one client changes in a release is not bounded, "
        "so it cannot be differentially private.",
        Code.DP_CHANGED: "Releases of this run were handed out under another dp, or none, and what "
        "they spent does not add up with this one's; begin a run under a new name.",
        Code.RELEASE_NOT_READY: "No release with this version exists yet.",
        Code.RECEIPT_INVALID: "The receipt is not signed by the attested enclave or does not "
        "match what was sent.",
        Code.GATEWAY_UNAVAILABLE: "The gateway could not be reached.",
        Code.ENCLAVE_UNAVAILABLE: "The enclave is not running; it is being started again.",
        Code.REGISTRY_UNAVAILABLE: "The gateway's registry does not answer; try again a little "
        "later.",
        Code.CIRCUIT_OPEN: "The gateway could not be reached several times in a row; it is left "
        "alone for a while.",
        Code.OVERLOADED: "The gateway is busy; try again a little later.",
        Code.DEADLINE: "The call took longer than its deadline.",
        Code.TOO_LARGE: "The message is larger than the gateway accepts.",
        Code.HOP_SIGNATURE: "A request to the enclave's host is not signed with the key it shares "
        "with the gateway; check hop.key of both.",
        Code.HOP_STALE: "A request to the enclave's host is too old or from the future; "
        "check both clocks.",
        Code.HOP_REPLAYED: "A request to the enclave's host came a second time.",
        Code.HOP_BODY: "A request to the enclave's host came with another body than was signed.",
        Code.JOURNAL_FULL: "There is no room on disk for what must be kept.",
        Code.JOURNAL_FAILED: "What must be kept could not be written to disk.",
        Code.JOURNAL_DAMAGED: "The journal is damaged.",
        Code.JOURNAL_EPOCH_GONE: "The enclave this update was sealed to has ended, so it was "
        "dropped; its node delivers it again.",
        Code.LEDGER_FAILED: "The ledger could not be written.",
        Code.LEDGER_DAMAGED: "The ledger is damaged.",
        Code.STATE_MISMATCH: "The saved state belongs to another run or does not fit its ledger.",
        Code.STATE_IN_USE: "Another process uses the saved state.",
        Code.CONFIG_INVALID: "The configuration is not valid.",
        Code.CLIENT_FAILED: "The client could not finish its task.",
        Code.NO_PROGRESS: "No update arrived in time.",
        Code.INTERNAL: "The service failed to answer; its log has the cause.",
    }
)


class AsynclaveError(Exception):
    """A refusal or failure with a stable code and a sentence a user can act on.

    Parameters
    ----------
    code : str
        A `Code`, or a refusal code of the aggregation engine.
    sentence : str, optional
        What happened and what to do; the code's standing sentence when omitted.
    """

    def __init__(self, code: str, sentence: str | None = None) -> None:
        self.code = str(code)
        self.sentence = sentence or SENTENCES.get(self.code, "The request was refused.")
        super().__init__(f"{self.code}: {self.sentence}")

    def __reduce__(self) -> tuple[type[AsynclaveError], tuple[str, str]]:
        # Exception would pickle its one formatted argument and lose the code.
        return type(self), (self.code, self.sentence)


class TokenRejected(AsynclaveError):
    """An access or refresh token was refused."""


class ProofRejected(AsynclaveError):
    """A proof of possession was refused.

    Parameters
    ----------
    code, sentence
        See `AsynclaveError`.
    nonce : str
        What the next proof must have in it, empty if nothing.
    """

    def __init__(self, code: str, sentence: str | None = None, nonce: str = "") -> None:
        super().__init__(code, sentence)
        self.nonce = nonce

    def __reduce__(self) -> tuple[type[AsynclaveError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.code, self.sentence, self.nonce)


class EnrolmentRejected(AsynclaveError):
    """A ticket or an identity was refused."""


class EvidenceRejected(AsynclaveError):
    """Attestation evidence was refused."""


class EnvelopeRejected(AsynclaveError):
    """A sealed update was refused before its content was looked at."""


class UpdateRejected(AsynclaveError):
    """The content of an update was refused."""


class RunRejected(AsynclaveError):
    """A run could not be opened, continued or released."""


class ReceiptRejected(AsynclaveError):
    """A receipt or release record does not verify."""


class GatewayUnavailable(AsynclaveError):
    """The gateway or the enclave behind it cannot answer now.

    Parameters
    ----------
    code, sentence
        See `AsynclaveError`.
    retry_after : float
        Seconds after which asking again makes sense, 0 if nobody said.
    """

    def __init__(self, code: str, sentence: str | None = None, retry_after: float = 0.0) -> None:
        super().__init__(code, sentence)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type[AsynclaveError], tuple[str, str, float]]:  # type: ignore[override]
        return type(self), (self.code, self.sentence, self.retry_after)


class HopRejected(AsynclaveError):
    """A request between gateway and enclave host was refused."""


class StorageFailed(AsynclaveError):
    """What a run keeps on disk cannot be written, read or used."""


class ConfigInvalid(AsynclaveError):
    """A configuration is wrong."""


_FAMILIES: tuple[tuple[str, type[AsynclaveError]], ...] = (
    ("TOKEN_", TokenRejected),
    ("REFRESH_", TokenRejected),
    ("PROOF_", ProofRejected),
    ("ENROL_", EnrolmentRejected),
    ("IDENTITY_", EnrolmentRejected),
    ("EVIDENCE_", EvidenceRejected),
    ("ENV_", EnvelopeRejected),
    ("TOO_LARGE", EnvelopeRejected),
    ("RUN_", RunRejected),
    ("LEAKY_", RunRejected),
    ("DP_RECIPE", RunRejected),
    ("DP_CHANGED", RunRejected),
    ("RELEASE_", RunRejected),
    ("RECEIPT_", ReceiptRejected),
    ("GATEWAY_", GatewayUnavailable),
    ("ENCLAVE_", GatewayUnavailable),
    ("REGISTRY_", GatewayUnavailable),
    ("CIRCUIT_", GatewayUnavailable),
    ("OVERLOADED", GatewayUnavailable),
    ("DEADLINE", GatewayUnavailable),
    ("HOP_", HopRejected),
    ("JOURNAL_", StorageFailed),
    ("LEDGER_", StorageFailed),
    ("STATE_", StorageFailed),
    ("CONFIG_", ConfigInvalid),
    ("CLIENT_FAILED", AsynclaveError),
    ("NO_PROGRESS", AsynclaveError),
    ("INTERNAL", AsynclaveError),
)


def error_for(code: str, sentence: str | None = None) -> AsynclaveError:
    """Build the typed error a code belongs to.

    Codes this package does not know are the aggregation engine's refusals of an update's content.
    """
    for prefix, family in _FAMILIES:
        if code.startswith(prefix):
            return family(code, sentence)
    return UpdateRejected(code, sentence)
