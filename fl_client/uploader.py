"""Upload one update so that only the attested enclave can read it, and prove it arrived."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

from fl_client.config import ClientConfig
from fl_client.contributions import ContributionWitness
from fl_client.outbox import Kept, Metrics, Outbox
from fl_client.sealing import Outgoing, Sealer
from fl_client.updates import LocalUpdate, Uploaded
from fl_protocol.codes import (
    Code,
    EnvelopeRejected,
    ReceiptRejected,
    RunRejected,
    UpdateRejected,
)
from fl_protocol.ports import Clock, Disk, Rng, SystemClock, SystemRng
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Standing, verify_receipt, verify_status
from fl_protocol.signatures import Signed
from fl_protocol.storage import stored
from strategies.reject import Reject, sentence
from tee_sim.appraisal import Attested
from tee_sim.node_config import Carrier, connect

_logger = getLogger(__name__)

# The enclave was replaced, or speaks under another policy than the one sealed to.
_SEAL_AGAIN = frozenset({Code.ENV_EPOCH, Code.ENV_KEY_ID, Code.ENV_POLICY})
# Refusals of an update; anything else means that the node could not do its work.
REFUSALS = (EnvelopeRejected, UpdateRejected, RunRejected)
# Of these, what another attempt may find changed.
_MAY_CHANGE = _SEAL_AGAIN | {Code.RUN_UNKNOWN, Code.ENV_EXPIRED, Code.OVERLOADED, Code.TOO_LARGE}
_MAX_ATTEMPTS = 4
_FIRST_WAIT, _LONGEST_WAIT = 0.25, 2.0


@dataclass(frozen=True)
class Settled:
    """An update delivered before: its receipt, and what was kept beside it."""

    uploaded: Uploaded
    metrics: Metrics


class SealedUploader:
    """Enrols, attests, seals, submits and verifies receipts for one node.

    Parameters
    ----------
    config : ClientConfig
        The node's bundle.
    clock, rng : Clock, Rng, optional
        The system's by default.
    disk : Disk, optional
        Of the node; the local disk by default.
    carrier : callable, optional
        Makes what carries the calls to the gateway; see `tee_sim.node_config.connect`.

    Attributes
    ----------
    outbox : Outbox
        What has not been seen in a release yet.
    """

    def __init__(
        self,
        config: ClientConfig,
        clock: Clock | None = None,
        rng: Rng | None = None,
        *,
        disk: Disk | None = None,
        carrier: Carrier | None = None,
    ) -> None:
        self._config = config
        self._clock, self._rng = clock or SystemClock(), rng or SystemRng()
        self._connection = connect(config, self._clock, self._rng, disk=disk, carrier=carrier)
        self._session = self._connection.session
        self._folder = Path(config.identity_dir)
        self._contributions = ContributionWitness(self._folder / "contributions", disk=disk)
        identity = self._connection.store.load_or_create(self._rng)
        self.outbox = Outbox(self._folder / "outbox", identity, self._rng, disk=disk)
        self._sealer = Sealer(config.federation, identity, self._clock, self._rng)

    def close(self) -> None:
        """Close the connection to the gateway."""
        self._session.close()

    def check(self, run_id: str, base_version: int, base_digest: str) -> None:
        """Raise RunRejected ``RUN_REPEATED`` unless this node may contribute to a model."""
        with stored(str(self._folder)):
            try:
                self._contributions.check(run_id, base_version, base_digest)
            except RunRejected:
                self._session.enrol()
                epoch = self._connection.attestor.refresh().epoch
                self._contributions.check(run_id, base_version, base_digest, epoch)

    def upload(self, update: LocalUpdate, metrics: Metrics | None = None) -> Uploaded:
        """Seal an update to the enclave attested just now and submit it.

        It is kept until the enclave has it in a release that was handed out; see `settle`. An
        update that has left may be in a release even if no receipt comes back, so each model of a
        run is contributed to once in each enclave. When the enclave was replaced, the update is
        sealed to its successor under the same id: that one remembers what was handed out, and
        refuses what was among it as DUPLICATE_UPDATE.

        Parameters
        ----------
        update : LocalUpdate
            What was trained.
        metrics : Metrics, optional
            Kept beside it.

        Returns
        -------
        Uploaded
            A verified receipt; its outcome is "accepted" or a refusal code.

        Raises
        ------
        AsynclaveError
            `EvidenceRejected`, `TokenRejected`, `EnvelopeRejected`, `RunRejected`,
            `ReceiptRejected`, `GatewayUnavailable`, or `StorageFailed` if the node's folder cannot
            be used. Whatever is no refusal of this update leaves it in the outbox.
        """
        with stored(str(self._folder)), self.outbox.turn(update.run_id):
            kept = Kept(self._rng.bytes(16).hex(), update, metrics or {})
            self.outbox.put(kept)
            return self._delivered(kept)

    def settle(self, run_id: str, base_digest: str) -> Settled | None:
        """Ask what became of the updates kept of a run, and deliver again what an enclave lost.

        To be called before a task is worked on, by whichever process of the node that is.

        Parameters
        ----------
        run_id : str
            The run.
        base_digest : str
            Hex SHA-256 of the model that the task is about.

        Returns
        -------
        Settled or None
            This node's update of that very model, if it counts and is in no release yet.

        Raises
        ------
        UpdateRejected
            ``CLIENT_QUOTA``: an update of another model waits for its release; until then this
            node contributes to none.
        AsynclaveError
            As for `upload`; what is not settled stays in the outbox, and until it is, this node
            contributes to no other model.
        """
        with stored(str(self._folder)), self.outbox.turn(run_id):
            for kept in self.outbox.of(run_id):
                uploaded = self._settled(kept)
                if uploaded is None:
                    continue
                if kept.update.base_digest != base_digest:
                    # If its enclave died, only the last contribution could be delivered again.
                    raise UpdateRejected(Reject.CLIENT_QUOTA, sentence(Reject.CLIENT_QUOTA))
                return Settled(uploaded, kept.metrics)
        return None

    def _settled(self, kept: Kept) -> Uploaded | None:
        """Return the receipt of an update that waits for its release, None if it is done with."""
        standing, uploaded = self._ask_about(kept)
        if standing == Standing.RELEASED:
            self.outbox.remove(kept)
            return None
        if standing == Standing.BUFFERED:
            return uploaded
        try:
            return self._delivered(kept)
        except REFUSALS as error:
            if error.code in _MAY_CHANGE:
                # A contribution to another model would bar it for good.
                raise
            _logger.warning("Update %s was not taken again: %s", kept.update_id, error)
            return None

    def _ask_about(self, kept: Kept) -> tuple[str, Uploaded | None]:
        nonce, run_id = self._rng.bytes(16), kept.update.run_id
        request = pb.UpdateStatusRequest(run_id=run_id, update_id=kept.update_id, nonce=nonce)
        reply = self._while_unopened(lambda: self._session.call("GetUpdateStatus", request))
        try:
            return self._answer(kept, nonce, reply, self._connection.attestor.current())
        except ReceiptRejected:
            # Perhaps signed by an enclave that this side has not met yet.
            return self._answer(kept, nonce, reply, self._connection.attestor.refresh())

    def _answer(
        self, kept: Kept, nonce: bytes, reply: pb.UpdateStatusReply, attested: Attested
    ) -> tuple[str, Uploaded | None]:
        client_id, key = self._session.enrol().client_id, attested.receipt_key
        status = verify_status(Signed.of(reply.status), key)
        asked = (kept.update.run_id, client_id, kept.update_id, nonce.hex(), attested.epoch)
        if (status.run_id, status.client_id, status.update_id, status.nonce, status.epoch) != asked:
            raise ReceiptRejected(Code.RECEIPT_INVALID)
        if not reply.HasField("receipt"):
            return status.state, None
        receipt = verify_receipt(Signed.of(reply.receipt), key)
        if (receipt.client_id, receipt.update_id) != (client_id, kept.update_id):
            raise ReceiptRejected(Code.RECEIPT_INVALID)
        return status.state, Uploaded(receipt, Signed.of(reply.receipt))

    def _delivered(self, kept: Kept) -> Uploaded:
        """Deliver an update; one that is refused for good is kept no longer."""
        try:
            uploaded = self._seal_and_submit(kept)
        except REFUSALS as error:
            if error.code not in _MAY_CHANGE:
                self.outbox.remove(kept)
            raise
        self._contributions.observe(kept.update.run_id, uploaded.receipt.version)
        return uploaded

    def _seal_and_submit(self, kept: Kept) -> Uploaded:
        enrolment, update = self._session.enrol(), kept.update
        attempts_left = _MAX_ATTEMPTS
        outgoing, attested = None, None
        while True:
            # Asked anew each time: what is sealed to an enclave that has ended is lost.
            latest = self._connection.attestor.refresh()
            if outgoing is None or attested is None or latest.epoch != attested.epoch:
                outgoing, attested = self._sealer.seal(kept, enrolment, latest), latest
                self._contributions.claim(
                    update.run_id,
                    update.base_version,
                    update.base_digest,
                    attested.epoch,
                    kept.update_id,
                )
            attempts_left -= 1
            try:
                return self._submitted(outgoing, attested)
            except EnvelopeRejected as error:
                if error.code not in _SEAL_AGAIN or not attempts_left:
                    raise

    def _submitted(self, outgoing: Outgoing, attested: Attested) -> Uploaded:
        reply = self._while_unopened(
            lambda: self._session.call(
                "SubmitUpdate", outgoing.messages, trace_id=outgoing.header.trace_id
            )
        )
        signed = Signed.of(reply)
        receipt = verify_receipt(signed, attested.receipt_key)
        outgoing.check(receipt)
        return Uploaded(receipt, signed)

    def _while_unopened(self, call: Callable[[], Any]) -> Any:
        """Make a call; a fresh enclave knows no run until the server has opened it there again."""
        give_up, wait = self._clock.now() + self._config.run_patience, _FIRST_WAIT
        while True:
            try:
                return call()
            except RunRejected as error:
                if error.code != Code.RUN_UNKNOWN or self._clock.now() + wait > give_up:
                    raise
            self._clock.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT)
