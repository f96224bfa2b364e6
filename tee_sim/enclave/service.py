"""The enclave's operations: open a run, take a sealed update, hand out a release, tell status."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from fl_protocol.codes import AsynclaveError, Code, EnvelopeRejected, RunRejected, UpdateRejected
from fl_protocol.encoding import b64url
from fl_protocol.envelope import SEGMENT_BYTES, TAG_BYTES, Header, Opener, body_digest, key_id
from fl_protocol.ports import Clock
from fl_protocol.receipts import ACCEPTED, GENESIS, Receipt, Release
from fl_protocol.signatures import Signed
from strategies.errors import MergeDue
from strategies.reject import Reject
from strategies.update import Accepted, ClientUpdate, Rejected
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
from tee_sim.enclave.run import Merged, Released, Run, agreed_recipe, read_layout
from tee_sim.evidence import EnclaveKeys
from tee_sim.policy import EnclavePolicy

_SWEEP_SECONDS = 60.0
_FLOAT_BYTES = 4
_VERSION_LIMIT = 2**52


@dataclass(frozen=True)
class Reply:
    """A reply's header and body."""

    header: dict[str, Any]
    body: memoryview | bytes = b""


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
        The host's time: it can shorten or stretch an update's validity, nothing else.
    memory : ReleaseMemory
        What earlier enclaves handed out.
    """

    def __init__(
        self,
        epoch: int,
        policy: EnclavePolicy,
        keys: Keys,
        clock: Clock,
        memory: ReleaseMemory,
    ) -> None:
        self._epoch, self._policy, self._keys, self._clock = epoch, policy, keys, clock
        self._memory = memory
        self._key_id = key_id(keys.public().hpke)
        self._ledger = ReceiptLedger(keys.receipt)
        self._run: Run | None = None
        self._segment = memoryview(bytearray(SEGMENT_BYTES + TAG_BYTES))
        self._latest, self._swept = 0.0, 0.0
        self._operations: dict[str, Callable[[dict[str, Any], Body], Reply]] = {
            "OPEN_RUN": self._open_run,
            "SUBMIT": self._submit,
            "GET_RELEASE": self._get_release,
            "STATUS": self._status,
        }

    def answer(self, request: Request) -> Reply:
        """Answer one request and consume its body.

        Raises
        ------
        ChannelClosed
            The peer is gone; every other failure becomes a reply.
        """
        try:
            reply = self._dispatch(request)
        except ChannelClosed:
            raise
        except AsynclaveError as error:
            reply = _refusal(error)
        except Exception:
            # What went wrong may name content, so nothing of it leaves.
            reply = _refusal(AsynclaveError(Code.INTERNAL))
        request.body.discard()
        return reply

    def _dispatch(self, request: Request) -> Reply:
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
        if body.remaining != _FLOAT_BYTES * layout.num_params:
            raise RunRejected(Code.RUN_MANIFEST)
        params = np.empty(layout.num_params, np.float32)
        body.read_into(params.data.cast("B"))
        run_id = _text(header, "run_id")
        memory = self._memory.recall(run_id)
        run = Run(run_id, layout, recipe, params, self._policy, version, memory)
        self._ledger.discard_unreleased()
        self._run = run
        return Reply(
            {
                "ok": True,
                "version": run.engine.version,
                "model_digest": run.model_digest(),
                "epoch": self._epoch,
            }
        )

    def _submit(self, request: dict[str, Any], body: Body) -> Reply:
        run = self._open()
        sealed = Sealed.of(request)
        header = Header.decode(sealed.protected)
        authenticate(sealed, header, Binding(self._policy, self._epoch, self._key_id, run.run_id))
        digest = body_digest(sealed.protected, sealed.wrap, sealed.tags)
        receipt = self._ledger.recall(header.update_id, digest)
        if receipt is None:
            now = self._now()
            self._release_due(run, now)
            check_time(header, now)
            check_base(header, run.history())
            check_task(header, run.history())
            accepted = self._offer(run, self._opened(run, sealed, body), now)
            run.note_task(header.task_digest)
            receipt = self._take_in(run, header, digest, accepted, now)
        return _signed_reply(receipt)

    def _opened(self, run: Run, sealed: Sealed, body: Body) -> ClientUpdate:
        opener = Opener(self._keys.hpke, sealed.protected, sealed.wrap, sealed.tags)
        header = opener.header
        if body.remaining != header.ct_len:
            raise EnvelopeRejected(Code.ENV_LENGTH)
        row = run.engine.lease()
        target = row.data.cast("B")
        for index in range(header.n_segs):
            segment = self._segment[: header.segment_plain_len(index) + TAG_BYTES]
            body.read_into(segment)
            target = target[opener.open_segment(index, segment, target) :]
        opener.finish()
        return ClientUpdate(
            header.client_id, header.base_version, row, header.num_examples, header.update_id
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

    def _take_in(
        self, run: Run, header: Header, digest: str, accepted: Accepted, now: float
    ) -> Signed:
        merged = run.merge_if_ready(now)
        receipt = Receipt(
            v=1,
            federation=header.federation,
            run_id=header.run_id,
            client_id=header.client_id,
            update_id=header.update_id,
            body_digest=digest,
            base_version=header.base_version,
            outcome=ACCEPTED,
            staleness=accepted.staleness,
            version=run.engine.version,
            epoch=self._epoch,
            seq=0,
            prev=GENESIS,
            iat=int(now),
        )
        signed = self._ledger.accept(receipt, header.exp + CLOCK_SKEW_SECONDS)
        if merged is not None:
            self._release(run, merged, now)
        return signed

    def _release_due(self, run: Run, now: float) -> None:
        # A longest wait may have passed, or memory was short at the last attempt.
        merged = run.merge_if_ready(now)
        if merged is not None:
            self._release(run, merged, now)

    def _release(self, run: Run, merged: Merged, now: float) -> None:
        merge = merged.merge
        record = Release(
            v=1,
            run_id=run.run_id,
            version=merge.version,
            model_digest=merge.digest,
            manifest_digest=run.layout.digest,
            num_updates=len(merge.consumed),
            num_clients=merged.num_clients,
            epoch=self._epoch,
            seq=0,
            prev=GENESIS,
            iat=int(now),
            policy_digest=self._policy.digest,
        )
        run.keep(Released(merge, self._ledger.release(record)))

    def _get_release(self, header: dict[str, Any], body: Body) -> Reply:
        run, version = self._open(), header.get("version")
        if header.get("run_id") != run.run_id:
            raise RunRejected(Code.RUN_UNKNOWN)
        if type(version) is not int:
            raise RunRejected(Code.RELEASE_NOT_READY)
        self._release_due(run, self._now())
        released = run.release(version)
        memory = run.memory_for(released)
        if memory is not None:
            self._memory.keep(run.run_id, memory)
            run.handed_out(memory)
        reply = _signed_reply(released.record)
        return Reply(reply.header, released.merge.params.data.cast("B"))

    def _status(self, header: dict[str, Any], body: Body) -> Reply:
        run = self._run
        return Reply(
            {
                "ok": True,
                "epoch": self._epoch,
                "run_id": run.run_id if run else "",
                "version": run.engine.version if run else 0,
                "pending": run.engine.pending if run else 0,
            }
        )

    def _open(self) -> Run:
        if self._run is None:
            raise RunRejected(Code.RUN_UNKNOWN)
        return self._run

    def _now(self) -> float:
        # Never back: an update forgotten as expired must not become valid again.
        self._latest = max(self._latest, self._clock.now())
        if self._latest - self._swept > _SWEEP_SECONDS:
            self._swept = self._latest
            self._ledger.forget_expired(self._latest)
        return self._latest


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if type(value) is not str or not value:
        raise RunRejected(Code.RUN_MANIFEST, f"The request has no valid {name}.")
    return value


def _signed_reply(signed: Signed) -> Reply:
    return Reply(
        {"ok": True, "payload": b64url(signed.payload), "signature": b64url(signed.signature)}
    )


def _refusal(error: AsynclaveError) -> Reply:
    return Reply({"ok": False, "code": error.code, "sentence": error.sentence})
