"""Fetches the enclave's records as it signs them and has them written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import Enum
from itertools import count
from logging import getLogger
from pathlib import Path
from typing import Any

from fl_protocol.codes import Code, GatewayUnavailable, ReceiptRejected
from fl_protocol.ports import Disk, LocalDisk
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Release, verify_head, verify_record
from fl_protocol.session import Session
from fl_protocol.signatures import Signed
from fl_protocol.storage import stored
from fl_server.intake.continued import require_task
from fl_server.intake.records import RunRecords, of_a_run
from fl_server.intake.witness import ChainWitness
from strategies.layout import Layout
from strategies.update import Vector
from tee_sim.appraisal import Attested, TrustPolicy

_logger = getLogger(__name__)


class _Answer(Enum):
    MORE, ALL, FOREIGN = range(3)


class ChainKeeper:
    """Keeps the whole chain of one run, receipts whose replies were lost included.

    Parameters
    ----------
    session : Session
        Connection to the gateway.
    folder : Path
        The run's; created when missing.
    trust : TrustPolicy
        Written down beside the evidence it accepted.
    disk : Disk, optional
        The local disk by default.
    """

    def __init__(
        self, session: Session, folder: Path, trust: TrustPolicy, disk: Disk | None = None
    ) -> None:
        self.folder = folder
        self._session, self._trust, self._disk = session, trust, disk
        self._records: RunRecords | None = None
        self._attested: Attested | None = None
        self._witness: ChainWitness
        self._epoch, self._next = -1, 0
        self._task = ""

    def begin(self, layout: Layout, params: Vector) -> None:
        """Begin the records of a run with its initial model, shape (P,)."""
        self._records = RunRecords.create(self.folder, self._trust, layout, params, disk=self._disk)

    def continue_(self, epoch: int, seq: int) -> None:
        """Go on with the records that the folder holds, from a number of an epoch on."""
        self._records = RunRecords(self.folder, disk=self._disk)
        self._epoch, self._next = epoch, seq

    def follow(self, attested: Attested, witness: ChainWitness, seq: int) -> None:
        """Write down the records of an enclave from a number on; again if it raised."""
        assert self._records is not None
        if attested.epoch != self._epoch:
            self._epoch, self._next = attested.epoch, seq
        self._attested, self._witness = attested, witness
        self._records.attested(attested)
        self.fetch()

    def model(self, params: Vector, server: dict[str, Any]) -> None:
        """Keep a released model, shape (P,), and what the server would continue with from there."""
        if self._records is not None:
            # In this order: a state of another version than the model's is not used.
            self._records.server(server)
            self._records.model(params)

    def begin_task(self, run_id: str, digest: str) -> None:
        """Keep the digest of what nodes are asked from now on.

        Raises
        ------
        StorageFailed
            ``STATE_MISMATCH``: another server has asked something else, and updates for that wait.
        """
        if digest == self._task or self._records is None:
            return
        if not self._task:
            require_task(self.folder, run_id, digest, self._disk)
        self._records.task(digest)
        self._task = digest

    def release(self, release: Release, signed: Signed) -> None:
        """Write down the record of a release that was fetched.

        The enclave tells it to nobody before, and may end right after: then this is the only one,
        and it is kept even if records before it are lost.

        Raises
        ------
        ReceiptRejected
            See `fetch`.
        """
        if self._records is None or release.epoch < self._epoch:
            return
        if release.epoch == self._epoch and release.seq > self._next:
            self.fetch()
        if release.epoch > self._epoch or release.seq >= self._next:
            self._records.append([signed], release.epoch, None)
            self._epoch, self._next = release.epoch, release.seq + 1

    def fetch(self) -> bool:
        """Write down what the enclave has signed since, up to a release it has not handed out.

        Returns
        -------
        bool
            False if the gateway could not be reached, or another enclave answers.

        Raises
        ------
        ReceiptRejected
            A record contradicts one that the enclave signed before.
        """
        if self._records is None or self._attested is None:
            # Not begun, or refused before an enclave opened the run.
            return True
        try:
            while (found := self._fetch_some(self._records, self._attested)) is _Answer.MORE:
                pass
        except GatewayUnavailable as error:
            # What is missing comes with the next fetch, unless the enclave is gone with it.
            _logger.warning("Records of the run could not be fetched: %s", error)
            return False
        return found is _Answer.ALL

    def close(self) -> None:
        """Fetch what is left and close the files."""
        self.fetch()
        if self._records is not None:
            self._records.close()
            self._records = None

    def _fetch_some(self, records: RunRecords, attested: Attested) -> _Answer:
        reply = self._session.call("GetRecords", pb.GetRecordsRequest(from_seq=self._next))
        found = [Signed.of(record) for record in reply.records]
        head, key = Signed.of(reply.head), attested.receipt_key
        try:
            length = verify_head(head, key).length
        except ReceiptRejected:
            return _Answer.FOREIGN
        after = self._next
        for signed in found:
            record = verify_record(signed, key)
            self._witness.observe(record, signed)
            if record.seq < after:
                raise ReceiptRejected(Code.RECEIPT_INVALID, "a record came in the wrong place")
            after = record.seq + 1
        # A head is kept with the last record that it counts, and so vouches for what is there.
        records.append(found, attested.epoch, head if length <= after else None)
        # Not before: what could not be written comes with the next fetch.
        self._next = after
        return _Answer.MORE if found else _Answer.ALL


@contextmanager
def free_folder(parent: Path, run_id: str, disk: Disk | None = None) -> Iterator[Path]:
    """Keep a folder for a run that no other has used: its name, or with a number behind it.

    Two servers that begin a run of one name at once get two of them.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FULL`` or ``JOURNAL_FAILED``: the folder cannot be used.
    """
    disk = disk or LocalDisk()
    name = run_id if run_id.strip(".") else "_"
    for number in count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        if of_a_run(disk.list(folder)):
            continue
        with ExitStack() as stack:
            with stored(str(folder)):
                alone = stack.enter_context(disk.lock(folder / "lock", wait=False))
            # What another server has begun there since stays its own.
            if alone and not of_a_run(disk.list(folder)):
                yield folder
                return
