"""The enclave's operations: open a run, take a sealed update, hand out a release, tell status."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_protocol import records
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import (
    AsynclaveError,
    Code,
    EnvelopeRejected,
    RunRejected,
    UpdateRejected,
    error_for,
)
from fl_protocol.envelope import SEGMENT_BYTES, TAG_BYTES, Header, Opener, body_digest, key_id
from fl_protocol.header import VALID_SECONDS
from fl_protocol.ports import Clock
from fl_protocol.receipts import ACCEPTED
from fl_protocol.signatures import Signed
from strategies.errors import MergeDue
from strategies.reject import Reject
from strategies.screening import squared_norm
from strategies.update import FLOAT_BYTES, Accepted, ClientUpdate, Rejected, digest_of
from tee_sim.channel import Body, ChannelClosed, Request
from tee_sim.enclave.checks import (
    CLOCK_SKEW_SECONDS,
    Binding,
    Sealed,
    authenticate,
    check_base,
    check_task,
    check_time,
    refused,
)
from tee_sim.enclave.ledger import ReceiptLedger
from tee_sim.enclave.memory import ReleaseMemory
from tee_sim.enclave.replies import Reply, members_of, refusal, signed_refusal, signed_reply
from tee_sim.enclave.run import Merged, Released, Run, agreed_recipe, read_layout
from tee_sim.enclave.statements import opening_of, receipt_of, release_of, status_of
from tee_sim.ending import EnclaveSpent, Ending
from tee_sim.evidence import EnclaveKeys
from tee_sim.hop import HopVerifier, check_body
from tee_sim.policy import EnclavePolicy

_SWEEP_SECONDS = 60.0
# An update that is sealed when the clock is further behind has expired already.
_MOST_BEHIND_SECONDS = VALID_SECONDS + CLOCK_SKEW_SECONDS
_VERSION_LIMIT = 2**52
_RECORDS_PER_REPLY = 1024


class Keys:
    """The epoch's private keys; they exist in this process only and die with it."""

    def __init__(self) -> None:
        self.hpke = X25519PrivateKey.generate()
        self.receipt = Ed25519PrivateKey.generate()

    def public(self) -> EnclaveKeys:
        """Return the raw public keys."""
        return EnclaveKeys(
            self.hpke.public_key().public_bytes_raw(), self.receipt.public_key().public_bytes_raw()
        )


class EnclaveService:
    """Answers requests; a refused or failing one changes nothing.

    Parameters
    ----------
    epoch : int
        This enclave's boot count.
    policy : EnclavePolicy
        What to enforce.
    keys : Keys
        The epoch's keys.
    clock : Clock
        The host's time: it can shorten or stretch an update's validity, or have the enclave end.
    hop : HopVerifier
        Says whether a request comes from the gateway.
    memory : ReleaseMemory
        What earlier enclaves handed out.
    """

    def __init__(
        self,
        epoch: int,
        policy: EnclavePolicy,
        keys: Keys,
        clock: Clock,
        hop: HopVerifier,
        memory: ReleaseMemory,
    ) -> None:
        self._epoch, self._policy, self._keys, self._clock = epoch, policy, keys, clock
        self._hop, self._memory = hop, memory
        self._key_id = key_id(keys.public().hpke)
        self._ledger = ReceiptLedger(keys.receipt, epoch)
        self._run: Run | None = None
        self._opening: Signed
        self._segment = memoryview(bytearray(SEGMENT_BYTES + TAG_BYTES))
        self._latest, self._swept = 0.0, 0.0
        self._operations: dict[str, Callable[[dict[str, Any], Body], Reply]] = {
            "OPEN_RUN": self._open_run,
            "SUBMIT": self._submit,
            "GET_RELEASE": self._get_release,
            "GET_RECORDS": self._get_records,
            "UPDATE_STATUS": self._update_status,
            "STATUS": self._status,
        }

    def answer(self, request: Request) -> Reply:
        """Answer one request and consume its body.

        Raises
        ------
        ChannelClosed
            The peer is gone; every other failure becomes a reply.
        EnclaveSpent
            A run takes the place of one that has releases nobody fetched. They cannot be taken
            back here, where the chain holds them and their updates count as released. Or the
            host's clock was ahead and was set right: fresh updates would count as expired until
            it is there again, and a successor has a time of its own.
        """
        try:
            reply = self._dispatch(request)
        except ChannelClosed:
            raise
        except AsynclaveError as error:
            reply = refusal(error)
        except Exception:
            # What went wrong may name content, so nothing of it leaves.
            reply = refusal(AsynclaveError(Code.INTERNAL))
        request.body.discard()
        return reply

    def _dispatch(self, request: Request) -> Reply:
        self._hop.verify(request.header)
        operation = self._operations.get(str(request.header.get("op")))
        if operation is None:
            raise RunRejected(Code.RUN_UNKNOWN, "The enclave has no such operation.")
        return operation(request.header, request.body)

    def _open_run(self, header: dict[str, Any], body: Body) -> Reply:
        layout = read_layout(_text(header, "layout_json"))
        recipe = agreed_recipe(_text(header, "recipe_json"), self._policy)
        version = header.get("version")
        if type(version) is not int or not 0 <= version < _VERSION_LIMIT:
            raise RunRejected(Code.RUN_MANIFEST, "The initial version is not valid.")
        if body.remaining != FLOAT_BYTES * layout.num_params:
            raise RunRejected(Code.RUN_MANIFEST)
        params = np.empty(layout.num_params, np.float32)
        body.read_into(params.data.cast("B"))
        run_id, digest = _text(header, "run_id"), digest_of(params)
        check_body(header, digest)
        joins = header.get("join") is True and self._run is not None and self._run.run_id == run_id
        if not joins:
            memory = self._memory.recall(run_id)
            self._begin(Run(run_id, layout, recipe, params, self._policy, version, memory))
        elif not self._open().had(layout, version, digest):
            raise RunRejected(Code.RUN_REGRESSED)
        about = {"version": self._open().engine.version, "epoch": self._epoch}
        return Reply({"ok": True, **about, **members_of(self._opening)})

    def _begin(self, run: Run) -> None:
        opening = opening_of(run, self._policy, self._now())
        try:
            records.encode(opening)
        except CanonicalError as error:
            raise RunRejected(Code.RUN_MANIFEST, "The run's name is not valid.") from error
        if self._ledger.withholds:
            raise EnclaveSpent
        self._opening, self._run = self._ledger.open(opening), run

    def _submit(self, request: dict[str, Any], body: Body) -> Reply:
        run = self._open()
        sealed = Sealed.of(request)
        check_body(request, hashlib.sha256(sealed.tags).hexdigest())
        header = Header.decode(sealed.protected)
        authenticate(sealed, header, Binding(self._policy, self._epoch, self._key_id, run.run_id))
        digest = body_digest(sealed.protected, sealed.wrap, sealed.tags)
        try:
            receipt = self._ledger.recall(header.update_id, digest)
            if receipt is None:
                receipt = self._taken_in(run, sealed, header, digest, body)
        except AsynclaveError as error:
            staleness = max(0, run.engine.version - header.base_version)
            outcome = receipt_of(run, header, digest, error.code, staleness, self._latest)
            return signed_refusal(error, self._ledger.refuse(outcome))
        return signed_reply(receipt)

    def _taken_in(
        self, run: Run, sealed: Sealed, header: Header, digest: str, body: Body
    ) -> Signed:
        now = self._now()
        self._release_due(run, now)
        check_time(header, now)
        check_base(header, run.history())
        check_task(header, run.history())
        accepted = self._offer(run, self._opened(run, sealed, header, body), now)
        run.note_task(header.task_digest)
        merged = run.merge_if_ready(now)
        receipt = receipt_of(run, header, digest, ACCEPTED, accepted.staleness, now)
        signed = self._ledger.accept(receipt, header.exp + CLOCK_SKEW_SECONDS)
        if merged is not None:
            self._release(run, merged, now)
        return signed

    def _opened(self, run: Run, sealed: Sealed, header: Header, body: Body) -> ClientUpdate:
        opener = Opener(self._keys.hpke, sealed.protected, sealed.wrap, sealed.tags, header)
        if body.remaining != header.ct_len:
            raise EnvelopeRejected(Code.ENV_LENGTH)
        row = run.engine.lease()
        target, filled, square = row.data.cast("B"), 0, 0.0
        for index in range(header.n_segs):
            segment = body.read(self._segment[: header.segment_plain_len(index) + TAG_BYTES])
            opened = filled + opener.open_segment(index, segment, target[filled:])
            # While the segment is in the processor's cache.
            square += squared_norm(row[filled // FLOAT_BYTES : opened // FLOAT_BYTES])
            filled = opened
        opener.finish()
        return ClientUpdate(
            header.client_id,
            header.base_version,
            row,
            header.num_examples,
            header.update_id,
            square,
        )

    def _offer(self, run: Run, update: ClientUpdate, now: float) -> Accepted:
        try:
            outcome = run.engine.offer(update, now)
        except MergeDue as error:
            raise UpdateRejected(Code.OVERLOADED) from error
        if isinstance(outcome, Rejected):
            if outcome.code is Reject.LEVERAGE_BOUND:
                # The engine discarded its buffer.
                self._ledger.discard_unreleased()
            raise refused(outcome.code)
        return outcome

    def _release_due(self, run: Run, now: float) -> None:
        # A longest wait may have passed, or memory was short at the last attempt.
        merged = run.merge_if_ready(now)
        if merged is not None:
            self._release(run, merged, now)

    def _release(self, run: Run, merged: Merged, now: float) -> None:
        record = release_of(run, merged, self._policy, now)
        run.keep(Released(merged.merge, self._ledger.release(record)))

    def _get_release(self, header: dict[str, Any], body: Body) -> Reply:
        run, version = self._run, header.get("version")
        if type(version) is not int:
            raise RunRejected(Code.RELEASE_NOT_READY)
        if run is None or header.get("run_id") != run.run_id:
            run_id = _text(header, "run_id", Code.RUN_UNKNOWN)
            return self._release_of_another(run_id, version)
        self._release_due(run, self._now())
        released = run.release(version)
        model = released.merge.params.data.cast("B")
        memory = run.memory_for(released)
        if memory is not None:
            self._memory.keep(run.run_id, memory, released.record, model)
            run.handed_out(memory)
            self._ledger.handed_out(version)
        return signed_reply(released.record, model)

    def _release_of_another(self, run_id: str, version: int) -> Reply:
        """Hand the newest release of a run out again that an enclave before this one made."""
        found = self._memory.release(run_id, version)
        if found is None:
            raise RunRejected(Code.RUN_UNKNOWN)
        return signed_reply(*found)

    def _get_records(self, header: dict[str, Any], body: Body) -> Reply:
        seq = header.get("from_seq")
        if type(seq) is not int:
            raise RunRejected(Code.RUN_UNKNOWN, "The request names no record to begin with.")
        kept = self._ledger.since(seq, _RECORDS_PER_REPLY)
        head = self._ledger.head(self._now())
        told = [members_of(record) for record in kept]
        return Reply({"ok": True, "records": told, "head": members_of(head)})

    def _update_status(self, header: dict[str, Any], body: Body) -> Reply:
        run = self._open()
        if header.get("run_id") != run.run_id:
            raise RunRejected(Code.RUN_UNKNOWN)
        client, update_id, nonce = (
            _text(header, name, Code.ENV_MALFORMED) for name in ("client_id", "update_id", "nonce")
        )
        try:
            signed = self._ledger.status(status_of(run, client, update_id, nonce, self._now()))
        except CanonicalError as error:
            raise EnvelopeRejected(Code.ENV_MALFORMED) from error
        receipt = self._ledger.receipt(client, update_id)
        more = {} if receipt is None else {"receipt": members_of(receipt)}
        return Reply({"ok": True, **members_of(signed), **more})

    def _status(self, header: dict[str, Any], body: Body) -> Reply:
        run = self._run
        return Reply(
            {
                "ok": True,
                "epoch": self._epoch,
                "run_id": run.run_id if run else "",
                "version": run.engine.version if run else 0,
                "pending": run.engine.pending if run else 0,
                "model_bytes": run.engine.params.nbytes if run else 0,
            }
        )

    def _open(self) -> Run:
        if self._run is None:
            raise RunRejected(Code.RUN_UNKNOWN)
        return self._run

    def _now(self) -> float:
        # Never back: an update forgotten as expired must not become valid again.
        now = self._clock.now()
        if now < self._latest - _MOST_BEHIND_SECONDS:
            raise EnclaveSpent(Ending.CLOCK_SET_BACK)
        self._latest = max(self._latest, now)
        if self._latest - self._swept > _SWEEP_SECONDS:
            self._swept = self._latest
            self._ledger.forget_expired(self._latest)
        return self._latest


def _text(header: dict[str, Any], name: str, code: Code = Code.RUN_MANIFEST) -> str:
    value = header.get(name)
    if type(value) is not str or not value:
        raise error_for(code, f"The request has no valid {name}.")
    return value
