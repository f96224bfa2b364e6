"""An update on its way: its header, its sealed form, and the receipt that fits them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fl_client.outbox import Kept
from fl_protocol.codes import Code, ReceiptRejected
from fl_protocol.envelope import SEGMENT_BYTES, SealedUpdate, body_digest, key_id, seal
from fl_protocol.header import SUITE, VALID_SECONDS, Header
from fl_protocol.identity import Enrolment, Identity
from fl_protocol.membership import verify_membership
from fl_protocol.ports import Clock, Rng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Receipt
from tee_sim.appraisal import Attested


@dataclass(frozen=True)
class Outgoing:
    """A sealed update and the header that was signed with it."""

    header: Header
    sealed: SealedUpdate
    membership: bytes

    def messages(self) -> Iterator[pb.SubmitRequest]:
        """Yield the messages of one SubmitUpdate call."""
        yield from submit_messages(self.sealed, self.membership)

    def check(self, receipt: Receipt) -> None:
        """Raise ReceiptRejected unless a receipt is about this very update."""
        header, sealed = self.header, self.sealed
        expected = (
            header.federation,
            header.run_id,
            header.client_id,
            header.update_id,
            header.base_version,
            header.epoch,
            body_digest(sealed.protected, sealed.wrap, sealed.tags),
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


class Sealer:
    """Seals a node's updates to attested enclaves.

    Parameters
    ----------
    federation : str
        Bound into every header.
    identity : Identity
        Its identity key signs.
    clock, rng : Clock, Rng
        Time of issue; source of keys, nonces and trace ids.
    """

    def __init__(self, federation: str, identity: Identity, clock: Clock, rng: Rng) -> None:
        self._federation, self._identity = federation, identity
        self._clock, self._rng = clock, rng

    def seal(self, kept: Kept, enrolment: Enrolment, attested: Attested) -> Outgoing:
        """Seal an update to an enclave.

        Raises
        ------
        AsynclaveError
            The enclave believes another issuer than this node's.
        """
        # It would count whomever its host makes up.
        verify_membership(enrolment.membership, attested.policy.issuer_public_key())
        header = self.header(kept, enrolment, attested)
        delta = np.ascontiguousarray(kept.update.delta, dtype="<f4").data
        sealed = seal(header, delta, attested.hpke_key, self._identity.identity_key, self._rng)
        return Outgoing(header, sealed, enrolment.membership)

    def header(self, kept: Kept, enrolment: Enrolment, attested: Attested) -> Header:
        """Return the header of an update for an enclave; `seal` sets its sizes."""
        now, update = int(self._clock.now()), kept.update
        return Header(
            v=1,
            suite=SUITE,
            federation=self._federation,
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
            ct_len=0,
            seg_size=SEGMENT_BYTES,
            n_segs=0,
            nonce=self._rng.bytes(16).hex(),
            update_id=kept.update_id,
            iat=now,
            exp=now + VALID_SECONDS,
            trace_id=self._rng.bytes(16).hex(),
        )


def submit_messages(sealed: SealedUpdate, membership: bytes) -> Iterator[pb.SubmitRequest]:
    """Yield the messages of one SubmitUpdate call, the first segment beside the header."""
    header = pb.SubmitHeader(
        protected=sealed.protected,
        wrap=sealed.wrap,
        tags=sealed.tags,
        signature=sealed.signature,
        membership=membership,
    )
    yield pb.SubmitRequest(header=header, segment=b"".join(sealed.segments[:1]))
    for segment in sealed.segments[1:]:
        yield pb.SubmitRequest(segment=bytes(segment))
