"""The audit of a run's directory, offline: evidence, chain, rules, model files, in this order."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from asynclave.verification.notes import begun_before, silent_epochs
from asynclave.verification.rules import Flaw, Ledger
from fl_protocol.chain import Link, first_fault
from fl_protocol.codes import Code, ConfigInvalid, EvidenceRejected, ReceiptRejected
from fl_protocol.receipts import Head, verify_head
from fl_protocol.signatures import Signed
from fl_server.intake.continued import appraise_kept
from fl_server.intake.records import (
    CHAIN,
    LAYOUT,
    MODEL,
    TRUST,
    decode_record,
    evidence_name,
    head_name,
)
from strategies.catalog import recipe_from
from strategies.errors import ManifestMismatch
from strategies.layout import Layout
from strategies.update import digest_of
from tee_sim.appraisal import Attested, TrustPolicy
from tee_sim.trust_file import load_trust

_PUBLISHED = "model.safetensors"
_EVIDENCE = re.compile(re.escape(evidence_name(0)).replace("0", "(0|[1-9][0-9]{0,15})"))
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


# What safetensors raises besides its own: of a folder, of arrays that are not there, and of types
# that numpy does not have.
_UNREADABLE_ARRAYS = (OSError, KeyError, ValueError, TypeError, AttributeError)


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
    links = _links(_read(folder / CHAIN))
    trust = load_trust(policy or folder / TRUST)
    layout = _read(folder / LAYOUT)
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
    epochs = sorted(
        int(match[1]) for path in folder.iterdir() if (match := _EVIDENCE.fullmatch(path.name))
    )
    for epoch in epochs:
        evidence = _read(folder / evidence_name(epoch))
        try:
            found.enclaves[epoch] = appraise_kept(evidence, trust, epoch)
        except EvidenceRejected as error:
            return Flaw(_first_of(links, epoch), "evidence", f"epoch {epoch}: {error}")
    return None


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
        head = verify_head(decode_record((folder / head_name(epoch)).read_bytes()), key)
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
        found.flaw = _check_released(folder, ledger, found) or _check_published(
            folder, layout, ledger, found
        )


def _check_released(folder: Path, ledger: Ledger, found: Audit) -> Flaw | None:
    path = folder / MODEL
    if not path.exists():
        missing = Flaw(found.num_records, "model", f"{MODEL} is missing")
        return missing if ledger.releases else None
    version = ledger.released.get(hashlib.sha256(_read(path)).hexdigest())
    if version is None:
        return Flaw(found.num_records, "model", f"{MODEL} is no model the enclave released")
    # A server writes the record first, so one that was cut off in between leaves the one before.
    if version < ledger.version - 1:
        sentence = f"{MODEL} is version {version}, but {ledger.version} was released"
        return Flaw(found.num_records, "model", sentence)
    found.notes.append(f"{MODEL} is version {version}")
    return None


def _check_published(folder: Path, layout: bytes, ledger: Ledger, found: Audit) -> Flaw | None:
    path = folder / _PUBLISHED
    if not path.exists():
        return None
    try:
        with safe_open(path, "numpy") as file:
            named = (file.metadata() or {}).get("digest", "")
        arrays, shape = load_file(path), Layout.from_json(layout.decode())
        params = shape.flatten({entry.name: arrays[entry.name] for entry in shape.entries})
    except (SafetensorError, ManifestMismatch, *_UNREADABLE_ARRAYS) as error:
        return Flaw(found.num_records, "model", f"{_PUBLISHED} cannot be read: {error}")
    if named not in ledger.released:
        return Flaw(found.num_records, "model", f"{_PUBLISHED} names a model never released")
    version = ledger.released.get(digest_of(params))
    if version is not None:
        found.notes.append(f"{_PUBLISHED} is version {version}")
    elif _publishes_a_mean(found):
        found.notes.append(
            f"{_PUBLISHED} is a mean over releases up to version {ledger.released[named]}, "
            "which no signature covers"
        )
    else:
        return Flaw(found.num_records, "model", f"{_PUBLISHED} is no model the enclave released")
    return None


def _publishes_a_mean(found: Audit) -> bool:
    recipe = next(iter(found.enclaves.values())).policy.recipe
    return recipe_from(recipe["name"], **recipe["options"]).parts().published is not None


def _links(chain: bytes) -> list[Link]:
    lines = chain.split(b"\n")
    return [_link(line) for line in (lines if lines[-1] else lines[:-1])]


def _link(line: bytes) -> Link:
    try:
        return Link.of(decode_record(line))
    except ValueError:
        return _UNREADABLE


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except IsADirectoryError:
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"{path} is a folder, and a file of the records has that name."
        ) from None
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        hint = "; only confidential runs leave records to verify" if missing else ""
        raise ConfigInvalid(Code.CONFIG_INVALID, f"{path}: {error.strerror}{hint}.") from None
