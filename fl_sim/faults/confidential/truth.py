"""What an onlooker who sees everything knows of a confidential world, and what must hold of it.

The numbers are those of `docs/chaos.md`. Nothing here relies on the code under test but for the
engine that does merges again, and for reading what it signed.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from fl_protocol.header import Header
from fl_sim.faults.chance import Violation
from strategies.engine import Engine
from strategies.recipe import Recipe
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.update import Accepted, ClientUpdate, Merge, Vector, digest_of

_SKEW = 30


@dataclass(frozen=True)
class Terms:
    """What a run is bound to.

    Attributes
    ----------
    recipe, limits, rule : Recipe, Limits, ReleaseRule
        Of the engine in the enclave.
    policy_digest : str
        Of the enclave's policy.
    audience : str
        Of access tokens.
    """

    recipe: Recipe
    limits: Limits
    rule: ReleaseRule
    policy_digest: str
    audience: str


@dataclass(frozen=True)
class Taken:
    """An update that an enclave took in, by the SHA-256 of its content in hex."""

    update_id: str
    client: str
    base_version: int
    content: str


@dataclass
class _Epoch:
    """What one enclave holds, and a second engine that is fed the same."""

    engine: Engine
    buffer: list[Taken] = field(default_factory=list)
    merged: list[Taken] = field(default_factory=list)


class Truth:
    """Follows every enclave of a world; each method raises Violation.

    Attributes
    ----------
    terms : Terms
        Of the run.
    deltas : dict of str to ndarray
        Every update ever trained, by the hex SHA-256 of its bytes.
    token_keys : list of Ed25519PublicKey
        Keys with which access tokens may be signed.
    acknowledged : dict of str to str
        Update ids by which a node was told that its update was accepted, and the node.
    released : dict of str to int
        Update ids that are in a release that was handed out, and its version.
    refused : set of str
        Update ids of which an enclave has signed a refusal.
    versions : dict of int to str
        Digests of the models handed out.
    replayed : int
        Versions that the second engine made again with the same digest.
    """

    def __init__(self, terms: Terms, initial: Vector) -> None:
        self.terms = terms
        self.deltas: dict[str, Vector] = {}
        self.token_keys: list[Ed25519PublicKey] = []
        self.acknowledged: dict[str, str] = {}
        self.released: dict[str, int] = {}
        self.refused: set[str] = set()
        self.versions: dict[int, str] = {0: digest_of(initial)}
        self.replayed = 0
        self._contents: dict[str, str] = {}
        self._contributions: list[tuple[int, str, str]] = []
        self._admitted: set[str] = set()
        self._epochs: dict[int, _Epoch] = {}
        self._made: dict[tuple[int, str], list[Taken]] = {}
        self._trained: list[bytes] = []
        self._violation = ""

    def failed(self, what: str) -> None:
        """Note an error that is none of those which the code under test knows."""
        self._fail(f"R: {what} failed in a way that has no name")

    def check(self) -> None:
        """Raise what was found where the code under test may have caught it."""
        if self._violation:
            raise Violation(self._violation)

    @property
    def version(self) -> int:
        """The newest version handed out."""
        return max(self.versions)

    def trained(self, delta: Vector) -> None:
        """Note an update that a node has made."""
        self.deltas[digest_of(delta)] = delta
        self._trained = [*self._trained[-31:], delta.tobytes()]

    def seen(self, data: bytes) -> None:
        """I8: what is on a disk or a wire is no update in the clear."""
        if any(plain in data for plain in self._trained):
            self._fail("I8: an update lies open outside the enclave")

    def submitted(self, header: Header, token: str, jkt: str, now: float) -> None:
        """Judge, without the gateway, whether a submission may be let in.

        Parameters
        ----------
        header : Header
            Of the update.
        token : str
            Access token beside it.
        jkt : str
            Thumbprint of the key that the call was signed with.
        now : float
            What the gateway's clock shows.
        """
        claims = self._claims(token)
        if (
            claims
            and now < claims["exp"] + _SKEW
            and claims["aud"] == self.terms.audience
            and "update:submit" in claims["scope"].split()
            and claims["client_id"] == header.client_id
            and claims["cnf"] == {"jkt": jkt}
            and header.policy_digest == self.terms.policy_digest
        ):
            self._admitted.add(header.update_id)

    def opened(self, epoch: int, version: int, params: Vector) -> None:
        """Note that an enclave begins the run at a model."""
        digest = digest_of(params)
        if self.versions.get(version) != digest or version != self.version:
            self._fail(f"I7: epoch {epoch} goes on at a model that is not the newest")
        terms = self.terms
        engine = Engine(
            terms.recipe, params, limits=terms.limits, release_rule=terms.rule, version=version
        )
        engine.ledger.restore(0, self._contributions)
        self._epochs[epoch] = _Epoch(engine)

    def took_in(self, epoch: int, update: ClientUpdate, now: float) -> None:
        """Note that an enclave counts an update."""
        content = digest_of(update.delta)
        delta = self.deltas.get(content)
        if delta is None:
            self._fail(f"I3: nobody has made the update behind {update.update_id}")
        if update.update_id not in self._admitted:
            self._fail(f"I6: {update.update_id} was let in without a token that holds")
        there = self._epochs[epoch]
        held = [*there.buffer, *there.merged]
        if update.update_id in self.released or content in self._contents:
            self._fail(f"I2: {update.update_id} is in a release and is taken in again")
        if any(content == taken.content for taken in held):
            self._fail(f"I2: {update.update_id} is taken in twice")
        again = ClientUpdate(
            update.client, update.base_version, delta.copy(), update.num_examples, update.update_id
        )
        if not isinstance(there.engine.offer(again, now), Accepted):
            self._fail(f"I6: by the rules {update.update_id} is refused")
        there.buffer.append(Taken(update.update_id, update.client, update.base_version, content))

    def merged(self, epoch: int, merge: Merge, now: float) -> None:
        """I4: a version is what its updates give."""
        there = self._epochs[epoch]
        again = there.engine.merge(now)
        if (again.version, again.digest) != (merge.version, merge.digest):
            self._fail(f"I4: version {merge.version} is not what its updates give")
        self.replayed += 1
        self._made[merge.version, merge.digest] = there.buffer
        there.merged, there.buffer = [*there.merged, *there.buffer], []

    def handed_out(self, version: int, digest: str) -> None:
        """Note a release that leaves an enclave, be it another than the one that made it."""
        known = self.versions.get(version)
        if known is not None:
            if known != digest:
                self._fail(f"I5: two models are version {version}")
            return
        if version != self.version + 1:
            self._fail(f"I5: version {version} follows version {self.version}")
        self.versions[version] = digest
        if (version, digest) not in self._made:
            self._fail(f"I4: version {version} was never merged")
        for taken in self._made[version, digest]:
            if taken.content in self._contents:
                self._fail(f"I2: {taken.update_id} is in two releases")
            self._contents[taken.content] = taken.update_id
            self.released[taken.update_id] = version
            self._contributions.append((taken.base_version, taken.client, taken.update_id))

    def died(self, epoch: int) -> None:
        """Forget what an enclave held."""
        self._epochs.pop(epoch, None)

    def served(self, version: int, digest: str) -> None:
        """I7: what nodes train from was handed out."""
        if self.versions.get(version) != digest:
            self._fail(f"I7: nodes are sent version {version}, which is none")

    def settled(self, kept: Mapping[str, set[str]]) -> None:
        """I1: what was acknowledged is in a release, refused by name, waits, or is at its node.

        Parameters
        ----------
        kept : mapping of str to set of str
            Update ids in each node's outbox.
        """
        for update_id, node in self.acknowledged.items():
            if update_id in self.released or update_id in self.refused:
                continue
            if update_id not in kept[node]:
                self._fail(f"I1: {update_id} was acknowledged, and its node forgot it")

    def _fail(self, what: str) -> NoReturn:
        self._violation = self._violation or what
        raise Violation(what)

    def _claims(self, token: str) -> dict[str, Any] | None:
        signed, _, signature = token.rpartition(".")
        for key in self.token_keys:
            try:
                key.verify(_decoded(signature), signed.encode())
            except InvalidSignature:
                continue
            claims: dict[str, Any] = json.loads(_decoded(signed.partition(".")[2]))
            return claims
        return None


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
