"""Bugs to plant into the confidential path; see `fl_sim.faults.mutants`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import sqlalchemy as sql

from fl_client.outbox import Kept, Outbox
from fl_client.sealing import Sealer
from fl_client.uploader import SealedUploader
from fl_protocol.codes import StorageFailed
from fl_protocol.header import Header
from fl_protocol.identity import Enrolment
from fl_protocol.replay import ReplayMemory
from fl_protocol.signatures import Signed
from fl_protocol.tokens import TokenVerifier
from fl_server.gateway.database import TICKETS
from fl_server.gateway.registry import Client, Registry
from fl_server.gateway.shared_memory import SharedReplayMemory
from fl_server.intake.records import RunRecords
from fl_sim.faults.mutants import MUTANTS, Mutant
from strategies.ledger import Ledger as Contributions
from tee_sim.appraisal import Attested
from tee_sim.enclave.ledger import ReceiptLedger
from tee_sim.enclave.memory import ReleaseMemory
from tee_sim.enclave.run import Run


def _good_again(self: ReplayMemory | SharedReplayMemory, thing: Any, now: float) -> bool:
    return True


def _good_after_a_restart(self: SharedReplayMemory, thing: str, now: float) -> bool:
    return self._own.use(thing, now)


def _no_time(self: TokenVerifier, claims: Any) -> None:
    return None


_redeem = Registry.redeem


def _redeemed_twice(self: Registry, ticket: str, identity_key: bytes, now: float) -> Client:
    with self._database.transaction() as connection:
        connection.execute(sql.update(TICKETS).values(used_by=None))
    return _redeem(self, ticket, identity_key, now)


_upload = SealedUploader._delivered


def _forgotten_when_accepted(self: SealedUploader, kept: Kept) -> Any:
    uploaded = _upload(self, kept)
    self.outbox.remove(kept)
    return uploaded


_header = Sealer.header


def _id_of_its_own(self: Sealer, kept: Kept, enrolment: Enrolment, attested: Attested) -> Header:
    header = _header(self, kept, enrolment, attested)
    return replace(header, update_id=self._rng.bytes(16).hex())


class _NoCipher:
    def encrypt(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return data

    def decrypt(self, nonce: bytes, data: bytes, aad: bytes) -> bytes:
        return data


_outbox = Outbox.__init__


def _open_outbox(self: Outbox, *arguments: Any, **options: Any) -> None:
    _outbox(self, *arguments, **options)
    self._cipher = _NoCipher()  # type: ignore[assignment]


def _never_seen(self: ReceiptLedger, update_id: str, body_digest: str) -> None:
    return None


def _never_a_duplicate(self: Contributions, update: Any, version: int, longest: int) -> None:
    return None


def _not_kept(self: ReleaseMemory, *arguments: Any) -> None:
    return None


def _no_memory(self: ReleaseMemory, run_id: str) -> None:
    return None


_append = RunRecords.append


def _passed_over(self: RunRecords, records: list[Signed], epoch: int, head: Any) -> None:
    with suppress(StorageFailed):
        _append(self, records, epoch, head)


_continue = Run._continue


def _contributions_forgotten(self: Run, memory: Any) -> None:
    _continue(self, memory)
    self._contributions = []
    self.engine.ledger.restore(memory.first_version, ())


CONFIDENTIAL_MUTANTS: Mapping[str, Mutant] = {
    "no-jti-memory": Mutant(
        "proofs, grants and signed requests are good more than once",
        ((ReplayMemory, "use", _good_again), (SharedReplayMemory, "use", _good_again)),
    ),
    "jti-memory-dies": Mutant(
        "a gateway does not know what the one before it has let in",
        ((SharedReplayMemory, "use", _good_after_a_restart),),
    ),
    "expired-tokens": Mutant(
        "an access token holds for ever", ((TokenVerifier, "_check_time", _no_time),)
    ),
    "ticket-for-two": Mutant(
        "a ticket enrols more than one identity", ((Registry, "redeem", _redeemed_twice),)
    ),
    "forgotten-when-accepted": Mutant(
        "a node forgets an update when it is accepted, not when it is released",
        ((SealedUploader, "_delivered", _forgotten_when_accepted),),
    ),
    "sealed-again-under-a-new-id": Mutant(
        "an update gets a new id each time that it is sealed",
        ((Sealer, "header", _id_of_its_own),),
    ),
    "open-outbox": Mutant(
        "a node's outbox is not encrypted", ((Outbox, "__init__", _open_outbox),)
    ),
    "no-dedup-in-the-enclave": Mutant(
        "an update that comes twice counts twice",
        (
            (ReceiptLedger, "recall", _never_seen),
            (Contributions, "screen", _never_a_duplicate),
        ),
    ),
    "nothing-outlives-an-enclave": Mutant(
        "an enclave does not know what those before it have handed out",
        ((ReleaseMemory, "keep", _not_kept), (ReleaseMemory, "recall", _no_memory)),
    ),
    "contributions-not-restored": Mutant(
        "an enclave knows the newest model of those before it, not what is in it",
        ((Run, "_continue", _contributions_forgotten),),
    ),
    "records-passed-over": Mutant(
        "the server goes on without the records that it could not write down",
        ((RunRecords, "append", _passed_over),),
    ),
    "torn-tail-not-cut": MUTANTS["torn-tail-not-cut"],
}
