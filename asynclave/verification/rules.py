"""What an honest enclave's records say about each other, beyond their signatures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fl_protocol.chain import Link
from fl_protocol.receipts import (
    ACCEPTED,
    GENESIS,
    NO_PRIVACY,
    Chained,
    Opening,
    Receipt,
    Release,
    updates_digest,
)
from strategies.catalog import recipe_from
from strategies.errors import StrategyError
from strategies.privacy.settings import Privacy
from strategies.reject import Reject
from strategies.screening import Limits, tightened
from tee_sim.policy import EnclavePolicy


@dataclass(frozen=True)
class Flaw:
    """The first thing that is wrong: the record's index, its kind in one word, and why."""

    index: int
    kind: str
    detail: str


class Breach(Exception):
    """A record breaks a rule; the message says which."""


@dataclass
class Ledger:
    """Follows one run through its records and keeps what the next ones must fit.

    Parameters
    ----------
    policies : mapping of int to EnclavePolicy
        The attested policy of each epoch.
    manifest_digest : str
        Digest of the layout the run was written down with.
    """

    policies: Mapping[int, EnclavePolicy]
    manifest_digest: str
    run_id: str = ""
    version: int = -1
    released: dict[str, int] = field(default_factory=dict)
    accepted: int = 0
    refused: int = 0
    releases: int = 0
    consumed: dict[str, int] = field(default_factory=dict)
    _buffer: list[Receipt] = field(default_factory=list)
    _contributed: set[tuple[str, int]] = field(default_factory=set)
    _remembered: dict[str, int] = field(default_factory=dict)
    _newest: str = GENESIS
    _model: tuple[int, str] = (-1, "")
    _spent: Counter[str] = field(default_factory=Counter)
    _most_spent: int = 0
    _privacy: Privacy | None = None

    @property
    def model_digest(self) -> str:
        """Digest of the newest model that the run was opened at or released; empty before."""
        return self._model[1]

    def follow(self, links: Sequence[Link]) -> Flaw | None:
        """Take in a whole chain of readable records; return the first that breaks a rule."""
        for index, link in enumerate(links):
            try:
                self._take(link)
            except Breach as breach:
                return Flaw(index, type(link.record).__name__.lower(), str(breach))
        return None

    def _take(self, link: Link) -> None:
        record = link.record
        if isinstance(record, Opening):
            self._open(record)
        elif record is not None and record.run_id == self.run_id:
            # Whoever opened another run in the same enclave has records of its own in the chain.
            if isinstance(record, Receipt):
                self._receive(record)
            else:
                self._release(record, link.digest)

    def _open(self, opening: Opening) -> None:
        self.run_id = self.run_id or opening.run_id
        self._buffer = []
        if opening.run_id != self.run_id:
            return
        _require(opening.policy_digest == self._policy(opening).digest, "another policy")
        _require(opening.manifest_digest == self.manifest_digest, "the model has another layout")
        privacy = self._policy(opening).dp
        _require(
            not self.releases or privacy == self._privacy,
            "its differential privacy is not that of the releases before, so what they spent does "
            "not add up",
        )
        self._privacy = privacy
        opened = (opening.version, opening.model_digest)
        if self.version < 0:
            _require(opening.continues == GENESIS, "the run began before these records")
            self._model = opened
        _require(
            opening.continues == self._newest,
            f"it does not continue version {self._model[0]}, the newest that was handed out: "
            "the platform's memory was turned back, or records are missing",
        )
        _require(
            opened == self._model,
            f"the run was opened again from another model than the version it continues, "
            f"{self._model[0]}",
        )
        self.version = opening.version
        self.released[opening.model_digest] = opening.version

    def _receive(self, receipt: Receipt) -> None:
        policy = self._policy(receipt)
        _require(receipt.federation == policy.federation, "another federation")
        if receipt.outcome != ACCEPTED:
            self.refused += 1
            if receipt.outcome == Reject.LEVERAGE_BOUND:
                # The enclave discarded its buffer; what was in it may come again.
                self._buffer = []
            return
        update, client, base = receipt.update_id, receipt.client_id, receipt.base_version
        buffered = {waiting.update_id for waiting in self._buffer}
        _require(update not in self._remembered, f"update {update} is in an earlier release")
        _require(
            (client, base) not in self._contributed,
            f"an update of {client} from version {base} is in an earlier release",
        )
        _require(update not in buffered, f"update {update} was accepted twice")
        quota = sum(waiting.client_id == client for waiting in self._buffer)
        _require(quota < policy.max_per_client, f"{client} is in the buffer already")
        _require(
            receipt.staleness == self.version - receipt.base_version <= policy.max_staleness,
            "the staleness is not that of its versions, or above the policy's bound",
        )
        self._buffer.append(receipt)
        self.accepted += 1

    def _release(self, release: Release, link: str) -> None:
        policy = self._policy(release)
        updates = [receipt.update_id for receipt in self._buffer]
        senders = {receipt.client_id for receipt in self._buffer}
        clients = len(senders)
        _require(release.version == self.version + 1, "it skips or repeats a version")
        _require(release.policy_digest == policy.digest, "it was made under another policy")
        _require(release.manifest_digest == self.manifest_digest, "its model has another layout")
        _require(
            release.updates_digest == updates_digest(updates)
            and release.num_updates == len(updates),
            "its updates are not those accepted since the release before",
        )
        _require(release.num_clients == clients, f"its updates come from {clients} clients")
        _require(clients >= policy.k, f"{clients} clients are fewer than the policy's {policy.k}")
        _require(
            release.epsilon == self._charge(senders, policy),
            "its epsilon is not what its clients have spent",
        )
        self.version = release.version
        self.released[release.model_digest] = release.version
        self._newest, self._model = link, (release.version, release.model_digest)
        self.releases += 1
        self.consumed.update(dict.fromkeys(updates, release.version))
        self._contributed.update((taken.client_id, taken.base_version) for taken in self._buffer)
        # As long as enclaves do; an id that was used so long ago its sender may choose again.
        oldest = release.version - _staleness_bound(policy)
        remembered = [*self._remembered.items()]
        remembered += [(taken.update_id, taken.base_version) for taken in self._buffer]
        self._remembered = {update: base for update, base in remembered if base >= oldest}
        self._buffer = []

    def _charge(self, senders: set[str], policy: EnclavePolicy) -> str:
        """Note one more release of each sender; return the epsilon of whoever is in most."""
        if policy.dp is None:
            return NO_PRIVACY
        self._spent.update(senders)
        self._most_spent = max(self._most_spent, *(self._spent[client] for client in senders))
        return policy.dp.stated(self._most_spent)

    def _policy(self, record: Chained) -> EnclavePolicy:
        return self.policies[record.epoch]


def _staleness_bound(policy: EnclavePolicy) -> int:
    """Return how far behind an update may be: by the policy, or its recipe where that is less."""
    try:
        own = recipe_from(policy.recipe["name"], **policy.recipe["options"]).parts().max_staleness
    except StrategyError:
        # Of another version than this.
        own = None
    return tightened(Limits(policy.max_staleness), own).max_staleness


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Breach(otherwise)
