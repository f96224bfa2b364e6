"""Open a run, fetch released models, and believe only what the attested enclave signed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_protocol.codes import Code, ReceiptRejected
from fl_protocol.proto import gateway_pb2 as pb
from fl_protocol.receipts import Release, read_record, verify_release
from fl_protocol.session import Session
from fl_protocol.signatures import Signed
from fl_server.intake.witness import ChainWitness
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.update import Merge, Vector, frozen
from tee_sim.appraisal import Attested

_CHUNK = 1 << 20


@dataclass(frozen=True)
class OpenedRun:
    """What a release must fit: the run and its layout."""

    run_id: str
    layout: Layout


@dataclass(frozen=True)
class Fetched:
    """A verified release.

    Attributes
    ----------
    merge : Merge
        The new version. Which updates it holds with which weights stays in the enclave.
    record : Release
        What the enclave says of it.
    signed : Signed
        The same, as it was signed.
    """

    merge: Merge
    record: Release
    signed: Signed


def open_messages(
    run: OpenedRun, recipe: Recipe, params: Vector, version: int, *, join: bool
) -> Iterator[pb.OpenRunRequest]:
    """Yield the messages that open a run from parameters of shape (P,) at a version, or join it."""
    described = {"name": recipe.name, "options": recipe.options()}
    body = np.ascontiguousarray(params, dtype="<f4").data.cast("B")
    yield pb.OpenRunRequest(
        header=pb.OpenRunHeader(
            run_id=run.run_id,
            layout_json=run.layout.to_json(),
            recipe_json=json.dumps(described, sort_keys=True, separators=(",", ":")),
            length=body.nbytes,
            version=version,
            join=join,
        )
    )
    for start in range(0, body.nbytes, _CHUNK):
        yield pb.OpenRunRequest(chunk=bytes(body[start : start + _CHUNK]))


def fetch_release(
    session: Session, run: OpenedRun, version: int, attested: Attested, witness: ChainWitness
) -> Fetched:
    """Fetch and verify one release.

    Parameters
    ----------
    session : Session
        Connection to the gateway.
    run : OpenedRun
        The run.
    version : int
        Version wanted.
    attested : Attested
        The enclave that must have signed it.
    witness : ChainWitness
        Chain of that enclave's records.

    Raises
    ------
    ReceiptRejected
        Signature, chain, model digest or any member does not fit.
    RunRejected, GatewayUnavailable
        The release cannot be had.
    """
    signed, body = session.receive(
        "GetRelease",
        pb.GetReleaseRequest(run_id=run.run_id, version=version),
        lambda replies: _collect(replies, run.layout.num_params),
    )
    release = verify_release(signed, attested.receipt_key)
    _check_fits(release, run, version, attested, hashlib.sha256(body.data).hexdigest())
    witness.observe(release, signed)
    return _fetched(release, signed, body)


def fetch_again(
    session: Session, run: OpenedRun, version: int, believed: Callable[[Release, Signed], bool]
) -> Fetched:
    """Fetch a release that an enclave handed out before it died; its successor has it sealed.

    Parameters
    ----------
    session, run, version
        As for `fetch_release`.
    believed : callable
        Whether that enclave is known to have signed a record.

    Raises
    ------
    ReceiptRejected, RunRejected, GatewayUnavailable
        As for `fetch_release`.
    """
    signed, body = session.receive(
        "GetRelease",
        pb.GetReleaseRequest(run_id=run.run_id, version=version),
        lambda replies: _collect(replies, run.layout.num_params),
    )
    release = read_record(signed)
    digest = hashlib.sha256(body.data).hexdigest()
    if not isinstance(release, Release) or not believed(release, signed):
        raise ReceiptRejected(Code.RECEIPT_INVALID)
    named = (release.run_id, release.version, release.manifest_digest, release.model_digest)
    if named != (run.run_id, version, run.layout.digest, digest):
        raise ReceiptRejected(Code.RECEIPT_INVALID)
    return _fetched(release, signed, body)


def _fetched(release: Release, signed: Signed, body: Vector) -> Fetched:
    digest, count = release.model_digest, release.num_updates
    merge = Merge(release.version, frozen(body), (), (), digest, withheld=count)
    return Fetched(merge, release, signed)


def _collect(replies: Iterable[Any], num_params: int) -> tuple[Signed, Vector]:
    body = np.empty(num_params, dtype="<f4")
    target = body.view(np.uint8)
    signed, filled = Signed(b"", b""), 0
    for reply in replies:
        if reply.WhichOneof("part") == "header":
            signed = Signed.of(reply.header)
            continue
        end = filled + len(reply.chunk)
        if end > target.size:
            raise ReceiptRejected(Code.RECEIPT_INVALID, "the released model is too long")
        target[filled:end] = np.frombuffer(reply.chunk, np.uint8)
        filled = end
    if filled != target.size:
        raise ReceiptRejected(Code.RECEIPT_INVALID, "the released model is too short")
    return signed, body


def _check_fits(
    release: Release, run: OpenedRun, version: int, attested: Attested, digest: str
) -> None:
    fits = (
        release.run_id == run.run_id
        and release.version == version
        and release.epoch == attested.epoch
        and release.policy_digest == attested.policy_digest
        and release.manifest_digest == run.layout.digest
        and release.model_digest == digest
        and release.num_clients >= attested.policy.k
    )
    if not fits:
        raise ReceiptRejected(
            Code.RECEIPT_INVALID, f"release {version} does not match the run, policy or model"
        )
