"""Upload one update so that only the attested enclave can read it, and prove it arrived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl_client.config import ClientConfig
from fl_client.contributions import ContributionWitness
from fl_protocol.codes import Code, EnvelopeRejected, ReceiptRejected, RunRejected
from fl_protocol.envelope import SEGMENT_BYTES, SealedUpdate, body_digest, key_id, seal
from fl_protocol.header import SUITE, Header
from fl_protocol.identity import Enrolment
from fl_protocol.membership import verify_membership
from fl_protocol.ports import Clock, Rng, SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Receipt, verify_receipt
from fl_protocol.signatures import Signed
from strategies.update import Vector
from tee_sim.appraisal import Attested
from tee_sim.node_config import connect

# The enclave was replaced, or speaks under another policy than the one sealed to.
_SEAL_AGAIN = frozenset({Code.ENV_EPOCH, Code.ENV_KEY_ID, Code.ENV_POLICY})
_MAX_ATTEMPTS = 4
_VALID_SECONDS = 600
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 2.0


@dataclass(frozen=True, eq=False)
class LocalUpdate:
    """What a client has trained.

    Attributes
    ----------
    run_id : str
        The run.
    base_version : int
        Version of the model trained from.
    base_digest : str
        Hex SHA-256 of that model's little-endian float32 bytes.
    manifest_digest : str
        Digest of the model's `Layout`.
    task_digest : str
        `fl_client.task.task_digest` of the training task.
    delta : ndarray of float32, shape (P,)
        Trained minus base model.
    num_examples : int
        Examples behind the update.
    """

    run_id: str
    base_version: int
    base_digest: str
    manifest_digest: str
    task_digest: str
    delta: Vector
    num_examples: int


@dataclass(frozen=True)
class Uploaded:
    """The enclave's verified answer and its signed form, for whoever wants to check it again."""

    receipt: Receipt
    signed: Signed


@dataclass(frozen=True)
class _Outgoing:
    header: Header
    sealed: SealedUpdate


class SealedUploader:
    """Enrols, attests, seals, submits and verifies receipts for one node.

    Parameters
    ----------
    config : ClientConfig
        The node's bundle.
    clock, rng : Clock, Rng, optional
        The system's by default.
    """

    def __init__(
        self, config: ClientConfig, clock: Clock | None = None, rng: Rng | None = None
    ) -> None:
        self._config = config
        self._clock, self._rng = clock or SystemClock(), rng or SystemRng()
        self._connection = connect(config, self._clock, self._rng)
        self._session = self._connection.session
        self._contributions = ContributionWitness(Path(config.identity_dir) / "contributions")
        self._identity = self._connection.store.load_or_create(self._rng)

    def close(self) -> None:
        """Close the connection to the gateway."""
        self._session.close()

    def check(self, run_id: str, base_version: int, base_digest: str) -> None:
        """Raise RunRejected ``RUN_REPEATED`` unless this node may contribute to a model."""
        try:
            self._contributions.check(run_id, base_version, base_digest)
        except RunRejected:
            self._session.enrol()
            epoch = self._connection.attestor.refresh().epoch
            self._contributions.check(run_id, base_version, base_digest, epoch)

    def upload(self, update: LocalUpdate) -> Uploaded:
        """Seal an update to the enclave attested just now and submit it.

        An update that has left may be in a release even if no receipt comes back, so each model of
        a run is contributed to once in each enclave. When the enclave was replaced, the update is
        sealed to its successor under the same id: that one remembers what was handed out, and
        refuses what was among it as DUPLICATE_UPDATE.

        Parameters
        ----------
        update : LocalUpdate
            What was trained.

        Returns
        -------
        Uploaded
            A verified receipt; its outcome is "accepted" or a refusal code.

        Raises
        ------
        AsynclaveError
            `EvidenceRejected`, `TokenRejected`, `EnvelopeRejected`, `RunRejected`,
            `ReceiptRejected` or `GatewayUnavailable`.
        """
        enrolment = self._session.enrol()
        update_id = self._rng.bytes(16).hex()
        attempts_left = _MAX_ATTEMPTS
        outgoing, attested = None, None
        while True:
            # Asked anew each time: what is sealed to an enclave that has ended is lost.
            latest = self._connection.attestor.refresh()
            if outgoing is None or attested is None or latest.epoch != attested.epoch:
                outgoing, attested = self._sealed(update, update_id, enrolment, latest), latest
                self._contributions.claim(
                    update.run_id, update.base_version, update.base_digest, attested.epoch
                )
            attempts_left -= 1
            try:
                uploaded = self._submitted(outgoing, enrolment, attested)
            except EnvelopeRejected as error:
                if error.code not in _SEAL_AGAIN or not attempts_left:
                    raise
            else:
                self._contributions.observe(update.run_id, uploaded.receipt.version)
                return uploaded

    def _sealed(
        self, update: LocalUpdate, update_id: str, enrolment: Enrolment, attested: Attested
    ) -> _Outgoing:
        # An enclave that believes another issuer would count whomever its host makes up.
        verify_membership(enrolment.membership, attested.policy.issuer_public_key())
        header = self._header(update, update_id, enrolment, attested)
        delta = np.ascontiguousarray(update.delta, dtype="<f4").data
        key = self._identity.identity_key
        return _Outgoing(header, seal(header, delta, attested.hpke_key, key, self._rng))

    def _submitted(self, outgoing: _Outgoing, enrolment: Enrolment, attested: Attested) -> Uploaded:
        give_up, wait = self._clock.now() + self._config.run_patience, _FIRST_WAIT
        while True:
            try:
                reply = self._session.call(
                    "SubmitUpdate",
                    lambda: submit_messages(outgoing.sealed, enrolment.membership),
                    trace_id=outgoing.header.trace_id,
                )
                break
            except RunRejected as error:
                # A fresh enclave knows no run until the server has opened it there again.
                if error.code != Code.RUN_UNKNOWN or self._clock.now() + wait > give_up:
                    raise
                self._clock.sleep(wait)
                wait = min(2 * wait, _LONGEST_WAIT)
        signed = Signed(reply.payload, reply.signature)
        receipt = verify_receipt(signed, attested.receipt_key)
        _check_fits(receipt, outgoing.header, outgoing.sealed)
        return Uploaded(receipt, signed)

    def _header(
        self, update: LocalUpdate, update_id: str, enrolment: Enrolment, attested: Attested
    ) -> Header:
        now = int(self._clock.now())
        return Header(
            v=1,
            suite=SUITE,
            federation=self._config.federation,
            run_id=update.run_id,
            epoch=attested.epoch,
            key_id=key_id(attested.hpke_key),
            policy_digest=attested.policy_digest,
            client_id=enrolment.client_id,
            base_version=update.base_version,
            base_model_digest=update.base_digest,
            num_examples=update.num_examples,
            manifest_digest=update.manifest_digest,
            task_digest=update.task_digest,
            # `seal` sets the three sizes.
            ct_len=0,
            seg_size=SEGMENT_BYTES,
            n_segs=0,
            nonce=self._rng.bytes(16).hex(),
            update_id=update_id,
            iat=now,
            exp=now + _VALID_SECONDS,
            trace_id=self._rng.bytes(16).hex(),
        )


def submit_messages(sealed: SealedUpdate, membership: bytes) -> Iterator[pb.SubmitRequest]:
    """Yield the messages of one SubmitUpdate call."""
    yield pb.SubmitRequest(
        header=pb.SubmitHeader(
            protected=sealed.protected,
            wrap=sealed.wrap,
            tags=sealed.tags,
            signature=sealed.signature,
            membership=membership,
        )
    )
    for segment in sealed.segments:
        yield pb.SubmitRequest(segment=bytes(segment))


def _check_fits(receipt: Receipt, header: Header, sealed: SealedUpdate) -> None:
    digest = body_digest(sealed.protected, sealed.wrap, sealed.tags)
    expected = (
        header.federation,
        header.run_id,
        header.client_id,
        header.update_id,
        header.base_version,
        header.epoch,
        digest,
    )
    answered = (
        receipt.federation,
        receipt.run_id,
        receipt.client_id,
        receipt.update_id,
        receipt.base_version,
        receipt.epoch,
        receipt.body_digest,
    )
    if answered != expected:
        raise ReceiptRejected(Code.RECEIPT_INVALID)
