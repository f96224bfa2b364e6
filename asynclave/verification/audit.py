"""The audit of a run's directory, offline: evidence, chain, rules, model files, in this order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from asynclave.verification.files import unreadable
from asynclave.verification.models import Models
from asynclave.verification.notes import begun_before, silent_epochs
from asynclave.verification.rules import Flaw, Ledger
from fl_protocol.chain import Link, first_fault
from fl_protocol.codes import Code, EvidenceRejected, ReceiptRejected
from fl_protocol.files import UnfitFile, open_regular, read_regular
from fl_protocol.receipts import Head, verify_head
from fl_protocol.signatures import Signed
from fl_server.intake.continued import appraise_kept
from fl_server.intake.records import (
    CHAIN,
    LAYOUT,
    MAX_LINE_BYTES,
    TRUST,
    decode_record,
    evidence_epochs,
    evidence_name,
    head_name,
)
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.channel import MAX_HEADER_BYTES
from tee_sim.evidence import MAX_EVIDENCE_BYTES
from tee_sim.trust_file import load_trust

_UNREADABLE = Link(Signed(b"", b""), None)


@dataclass
class Audit:
    """What was found, as far as the audit came.

    Attributes
    ----------
    num_records, accepted, refused, releases : int
        Records in all and by kind.
    run_id : str
        The run that the records are of; empty before it was opened.
    version : int
        The newest released version; -1 before the run was opened.
    model_digest : str
        Hex SHA-256 of that model's float32 bytes.
    enclaves : dict of int to Attested
        Appraised enclaves by epoch.
    released : dict of str to int
        Version by the id of every update that is in a release.
    notes : list of str
        What holds, and what is not covered, in words.
    flaw : Flaw, optional
        The first thing that is wrong; None when everything holds.
    """

    num_records: int = 0
    accepted: int = 0
    refused: int = 0
    releases: int = 0
    run_id: str = ""
    version: int = -1
    model_digest: str = ""
    enclaves: dict[int, Attested] = field(default_factory=dict)
    released: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    flaw: Flaw | None = None


def audit(folder: Path, policy: Path | None = None, run_id: str | None = None) -> Audit:
    """Check a run's directory.

    Parameters
    ----------
    folder : Path
        What `fl_server.intake.records` describes, and perhaps the published model.
    policy : Path, optional
        Trust policy to appraise evidence by; the run's own when omitted.
    run_id : str, optional
        The run that the records must be of; the first one opened in them when omitted.

    Raises
    ------
    ConfigInvalid
        The folder holds no records, or the policy cannot be read.
    """
    found = Audit()
    links = _links(folder / CHAIN)
    trust = load_trust(policy or folder / TRUST)
    layout = _layout(folder / LAYOUT)
    found.num_records = len(links)
    found.flaw = _appraise(folder, links, trust, found)
    if found.flaw is None and not links:
        found.flaw = Flaw(0, "removed", "the chain is empty, without even the run's opening")
    if found.flaw is None:
        found.flaw = _check_chain(folder, links, found)
    if found.flaw is None:
        records = [link.record for link in links if link.record]
        found.notes += silent_epochs(records, found.enclaves.keys()) + begun_before(records)
        _check_rules(folder, links, layout, found)
        if run_id is not None and found.run_id != run_id:
            found.flaw = Flaw(0, "opening", f"the records are of run {found.run_id}, not {run_id}")
    return found


def _appraise(folder: Path, links: list[Link], trust: TrustPolicy, found: Audit) -> Flaw | None:
    for epoch in evidence_epochs(path.name for path in folder.iterdir()):
        try:
            evidence = _evidence(folder / evidence_name(epoch))
            found.enclaves[epoch] = appraise_kept(evidence, trust, epoch)
        except EvidenceRejected as error:
            return Flaw(_first_of(links, epoch), "evidence", f"epoch {epoch}: {error}")
    return None


def _evidence(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_EVIDENCE_BYTES)
    except UnfitFile as error:
        sentence = f"{path.name} {error}."
        raise EvidenceRejected(Code.EVIDENCE_MALFORMED, sentence) from error
    except OSError as error:
        raise unreadable(path, error) from None


def _first_of(links: list[Link], epoch: int) -> int:
    epochs = [link.record.epoch if link.record else None for link in links]
    return epochs.index(epoch) if epoch in epochs else len(links)


def _check_chain(folder: Path, links: list[Link], found: Audit) -> Flaw | None:
    keys = {epoch: attested.receipt_key for epoch, attested in found.enclaves.items()}
    found_heads = {epoch: _head(folder, epoch, key) for epoch, key in keys.items()}
    heads = {epoch: head for epoch, head in found_heads.items() if head is not None}
    fault = first_fault(links, keys, heads)
    return None if fault is None else Flaw(fault.index, fault.damage.value, fault.detail)


def _head(folder: Path, epoch: int, key: bytes) -> Head | None:
    try:
        line = read_regular(folder / head_name(epoch), MAX_LINE_BYTES)
        head = verify_head(decode_record(line), key)
    except (OSError, ValueError, ReceiptRejected):
        return None
    return head if head.epoch == epoch else None


def _check_rules(folder: Path, links: list[Link], layout: bytes, found: Audit) -> None:
    policies = {epoch: attested.policy for epoch, attested in found.enclaves.items()}
    ledger = Ledger(policies, hashlib.sha256(layout).hexdigest())
    found.flaw = ledger.follow(links)
    found.accepted, found.refused = ledger.accepted, ledger.refused
    found.run_id, found.model_digest = ledger.run_id, ledger.model_digest
    found.releases, found.version = ledger.releases, ledger.version
    found.released = ledger.consumed
    if found.flaw is None:
        recipe = next(iter(found.enclaves.values())).policy.recipe
        found.flaw = Models(folder, layout, recipe, ledger, found.notes).check(found.num_records)


def _links(path: Path) -> list[Link]:
    links: list[Link] = []
    try:
        with open_regular(path) as chain:
            while line := chain.readline(MAX_LINE_BYTES + 1):
                links.append(_link(line.removesuffix(b"\n")))
                if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                    # No record, and there may be no end to it.
                    break
    except OSError as error:
        raise unreadable(path, error) from None
    return links


def _link(line: bytes) -> Link:
    try:
        return Link.of(decode_record(line))
    except ValueError:
        return _UNREADABLE


def _layout(path: Path) -> bytes:
    try:
        return read_regular(path, MAX_HEADER_BYTES)
    except OSError as error:
        raise unreadable(path, error) from None
