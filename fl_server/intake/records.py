"""What a server writes down of a confidential run, so that anybody can check it afterwards.

::

    receipts.jsonl        every record the enclaves signed since they opened the run, in order
    evidence-EPOCH.json   the evidence that was appraised, with policy and receipt key
    head-EPOCH.json       where that epoch's chain ended when the enclave was asked last
    trust.toml            what the server demanded of the evidence
    layout.json           the model's layout
    released-model.bin    the newest released model, at first the initial one: its SHA-256 is the
                          ``model_digest`` of a release's or the opening's record
    server.npz            what else the server continues from: running mean, whose node is whose
    task.txt              digest of what nodes were asked last

Nothing in it is secret. `asynclave verify-run` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from fl_protocol import canonical
from fl_protocol.codes import StorageFailed
from fl_protocol.encoding import b64url, b64url_decode
from fl_protocol.ports import Disk, LocalDisk
from fl_protocol.signatures import Signed
from fl_protocol.storage import clear_interrupted, stored
from fl_server.durable.checkpoint import encode_state
from strategies.layout import Layout
from strategies.update import Vector
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.trust_file import write_trust

CHAIN = "receipts.jsonl"
TRUST = "trust.toml"
LAYOUT = "layout.json"
MODEL = "released-model.bin"
SERVER = "server.npz"
TASK = "task.txt"

_FILES = frozenset({CHAIN, TRUST, LAYOUT, MODEL, SERVER, TASK})
_EPOCH = r"-(0|[1-9][0-9]{0,15})\.json"
_EVIDENCE, _HEAD = re.compile("evidence" + _EPOCH), re.compile("head" + _EPOCH)
MAX_LINE_BYTES = 1 << 16
_MODE = 0o644


class RunRecords:
    """Appends to the records of one run.

    Parameters
    ----------
    folder : Path
        Created when missing; a chain in it is continued, cut where `whole_lines` ends.
    disk : Disk, optional
        The local disk by default.

    Raises
    ------
    StorageFailed
        ``JOURNAL_FULL`` or ``JOURNAL_FAILED``, here and from every method that writes: what was to
        be written is not there, not even in part.
    """

    def __init__(self, folder: Path, *, disk: Disk | None = None) -> None:
        self._folder, self._disk = folder, disk or LocalDisk()
        path = folder / CHAIN
        clear_interrupted(self._disk, folder, "evidence-", "head-", *_FILES)
        with stored("the records"):
            if self._disk.exists(path):
                lines = whole_lines(self._disk.read(path))
                self._disk.truncate(path, sum(len(line) + 1 for line in lines))
            self._chain = self._disk.open_log(path)
            self._size = self._disk.size(path)

    @classmethod
    def create(
        cls,
        folder: Path,
        trust: TrustPolicy,
        layout: Layout,
        params: Vector,
        *,
        disk: Disk | None = None,
    ) -> RunRecords:
        """Begin the records of a run.

        Parameters
        ----------
        folder : Path
            Created when missing.
        trust : TrustPolicy
            What evidence is appraised by.
        layout : Layout
            The model's.
        params : Vector
            Initial model, shape (P,).
        disk : Disk, optional
            The local disk by default.
        """
        records = cls(folder, disk=disk)
        records.model(params)
        with stored(TRUST):
            write_trust(folder / TRUST, trust, records._disk)
        # Last: a folder without it is no run that could be continued.
        records._write(LAYOUT, layout.to_json().encode())
        return records

    def attested(self, attested: Attested) -> None:
        """Keep the evidence of an enclave that the run is about to be opened in."""
        self._write(evidence_name(attested.epoch), attested.evidence)

    def append(self, records: list[Signed], epoch: int, head: Signed | None) -> None:
        """Append verified records, and keep the head that covers them and no more."""
        lines = b"".join(encode_record(signed) + b"\n" for signed in records)
        with stored("the records"):
            self._cut_back()
            try:
                self._chain.append([lines])
                self._chain.sync()
                if head is not None:
                    self._write(head_name(epoch), encode_record(head))
            except (OSError, StorageFailed):
                # If it fails, so does whatever would be appended next.
                with suppress(OSError):
                    self._cut_back()
                raise
        self._size += len(lines)

    def model(self, params: Vector) -> None:
        """Keep the newest released model, shape (P,)."""
        self._write(MODEL, params.astype("<f4", copy=False).tobytes())

    def server(self, state: dict[str, Any]) -> None:
        """Keep what the server continues from; arrays, and a JSON string ``"meta"``."""
        self._write(SERVER, encode_state(state))

    def task(self, digest: str) -> None:
        """Keep the digest of what nodes are asked from now on."""
        self._write(TASK, digest.encode("ascii"))

    def close(self) -> None:
        """Close the chain."""
        self._chain.close()

    def _cut_back(self) -> None:
        """Cut what a failed attempt left: a part of a line would make what follows unreadable."""
        path = self._folder / CHAIN
        if self._disk.size(path) > self._size:
            self._disk.truncate(path, self._size)

    def _write(self, name: str, data: bytes) -> None:
        with stored(name):
            self._disk.write_atomic(self._folder / name, data, _MODE)


def whole_lines(chain: bytes) -> list[bytes]:
    """Return the lines of a chain up to the first that holds no record.

    What a write leaves that was cut off need not be at the end: a loss of power may have kept any
    of its pages. The heads say up to where the chain had been synced.
    """
    return list(takewhile(_holds_a_record, chain.split(b"\n")[:-1]))


def _holds_a_record(line: bytes) -> bool:
    try:
        decode_record(line)
    except ValueError:
        return False
    return True


def of_a_run(names: Iterable[str]) -> set[str]:
    """Return which names of files in a folder are those of a run's records."""
    return {
        name
        for name in names
        if name in _FILES or _EVIDENCE.fullmatch(name) or _HEAD.fullmatch(name)
    }


def evidence_name(epoch: int) -> str:
    """Return the name of the file that holds an epoch's evidence."""
    return f"evidence-{epoch}.json"


def head_name(epoch: int) -> str:
    """Return the name of the file that holds the head of an epoch's chain."""
    return f"head-{epoch}.json"


def evidence_epochs(names: Iterable[str]) -> list[int]:
    """Return the epochs whose evidence is among files of a folder, in order."""
    return _epochs(_EVIDENCE, names)


def head_epochs(names: Iterable[str]) -> list[int]:
    """Return the epochs whose heads are among files of a folder, in order."""
    return _epochs(_HEAD, names)


def _epochs(pattern: re.Pattern[str], names: Iterable[str]) -> list[int]:
    return sorted(int(match[1]) for name in names if (match := pattern.fullmatch(name)))


def encode_record(signed: Signed) -> bytes:
    """Return a signed record as one line: its payload readable, its signature base64url."""
    payload, signature = signed.payload.decode("ascii"), b64url(signed.signature)
    return canonical.encode({"payload": payload, "signature": signature})


def decode_record(line: bytes) -> Signed:
    """Read what `encode_record` wrote, byte for byte.

    Raises
    ------
    ValueError
        It is anything else: two spellings of a record would be one edit that goes unseen.
    """
    members = canonical.decode_object(line, MAX_LINE_BYTES)
    if members.keys() != {"payload", "signature"}:
        raise ValueError("a record has a payload and a signature")
    payload, signature = members["payload"], members["signature"]
    if type(payload) is not str or type(signature) is not str or not payload.isascii():
        raise ValueError("payload and signature are texts")
    return Signed(payload.encode("ascii"), b64url_decode(signature))
