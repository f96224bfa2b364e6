"""One open run inside the enclave: its engine and the models it released."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass

from fl_protocol import canonical
from fl_protocol.canonical import CanonicalError
from fl_protocol.codes import Code, RunRejected
from fl_protocol.ports import SystemRng
from fl_protocol.receipts import GENESIS, NO_PRIVACY, Standing, record_digest
from fl_protocol.signatures import Signed
from strategies.catalog import recipe_from
from strategies.confidential import refuse_leaky
from strategies.engine import Engine
from strategies.errors import (
    BadOption,
    LeakyRecipe,
    ManifestMismatch,
    StrategyError,
    UnknownRecipe,
    UnprivateRecipe,
)
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.release import ReleaseRule
from strategies.screening import Limits
from strategies.update import Merge, Vector, digest_of
from tee_sim.enclave.checks import History
from tee_sim.enclave.memory import Contribution, RunMemory
from tee_sim.policy import EnclavePolicy

_MAX_RECIPE_BYTES = 8192
# A server that asks late still finds its releases, within this much memory.
_KEPT_RELEASES, _KEPT_BYTES = 64, 256 << 20


@dataclass(frozen=True)
class Released:
    """A merge with its signed record."""

    merge: Merge
    record: Signed


@dataclass(frozen=True)
class Merged:
    """A merge, the number of distinct clients in it, and the privacy spent so far."""

    merge: Merge
    num_clients: int
    epsilon: str


class Run:
    """The engine under the policy's release rule, and what it released.

    Parameters
    ----------
    run_id : str
        Name of the run.
    layout : Layout
        The model's arrays.
    recipe : Recipe
        The aggregation rule, `agreed_recipe`.
    params : Vector
        First model, shape ``(layout.num_params,)``.
    policy : EnclavePolicy
        Limits and release rule.
    version : int
        Version of that model; above 0 when a run goes on after its enclave died.
    memory : RunMemory, optional
        What was handed out of this run before.

    Attributes
    ----------
    continues : str
        Chain link of the record of the newest release handed out before; zeros if there is none.

    Raises
    ------
    RunRejected
        ``LEAKY_RECIPE``, ``DP_RECIPE``, ``RUN_RECIPE``, ``RUN_MANIFEST``, ``RUN_REGRESSED`` for
        a model that is not the newest handed out, or ``DP_CHANGED`` for another privacy than that
        of the releases handed out.
    """

    def __init__(
        self,
        run_id: str,
        layout: Layout,
        recipe: Recipe,
        params: Vector,
        policy: EnclavePolicy,
        version: int = 0,
        memory: RunMemory | None = None,
    ) -> None:
        self.run_id, self.layout = run_id, layout
        self._max_staleness = policy.max_staleness
        try:
            limits = Limits(policy.max_staleness, policy.max_norm, policy.max_examples)
            self.engine = Engine(
                recipe,
                params,
                limits=limits,
                release_rule=rule_of(policy),
                version=version,
                privacy=policy.dp,
                entropy=SystemRng().bytes,
                roles=layout.roles,
            )
        except LeakyRecipe as error:
            raise RunRejected(Code.LEAKY_RECIPE, error.sentence) from error
        except UnprivateRecipe as error:
            raise RunRejected(Code.DP_RECIPE, error.sentence) from error
        except ManifestMismatch as error:
            raise RunRejected(Code.RUN_MANIFEST, error.sentence) from error
        except StrategyError as error:
            raise RunRejected(Code.RUN_RECIPE, error.sentence) from error
        self._digests = {version: digest_of(self.engine.params)}
        self._first_version, self._handed_out = version, version
        self.continues = GENESIS if memory is None else memory.release
        self._contributions: list[tuple[int, Contribution]] = []
        self._charges: list[tuple[int, frozenset[str]]] = []
        self._spent: Counter[str] = Counter()
        self._privacy = {} if policy.dp is None else policy.dp.texts()
        if memory is not None:
            self._continue(memory)
        self._released: deque[Released] = deque()
        self._task_digest = ""

    def history(self) -> History:
        """Return what an update's base version is checked against."""
        return History(
            self.engine.version,
            self._handed_out,
            self._digests,
            self.layout.digest,
            self.layout.num_params,
            self._max_staleness,
            self._task_digest if self.engine.pending else None,
        )

    def note_task(self, task_digest: str) -> None:
        """Remember what the updates in the buffer were trained for."""
        self._task_digest = task_digest

    def model_digest(self) -> str:
        """Return the hex SHA-256 of the current model."""
        return self._digests[self.engine.version]

    def had(self, layout: Layout, version: int, digest: str) -> bool:
        """Say whether a version that was handed out, and not too long ago, is this very model."""
        known = self._digests.get(version) if version <= self._handed_out else None
        return layout.digest == self.layout.digest and known == digest

    def standing(self, client: str, update_id: str) -> Standing:
        """Return what became of a client's update."""
        for version, (_, owner, name) in self._contributions:
            if (owner, name) == (client, update_id):
                handed_out = version <= self._handed_out
                return Standing.RELEASED if handed_out else Standing.BUFFERED
        waiting = {(update.client, update.update_id) for update in self.engine.waiting}
        return Standing.BUFFERED if (client, update_id) in waiting else Standing.UNKNOWN

    def merge_if_ready(self, now: float) -> Merged | None:
        """Merge a full buffer; a merge that cannot be made now is tried again later."""
        if not self.engine.ready(now) or self._unfetched() >= self._most_kept():
            return None
        waiting = list(self.engine.waiting)
        clients = frozenset(update.client for update in waiting)
        try:
            merge = self.engine.merge(now)
        except (StrategyError, MemoryError):
            return None
        self._contributions += [
            (merge.version, (update.base_version, update.client, update.update_id))
            for update in waiting
        ]
        if self.engine.budget is not None:
            self._charges.append((merge.version, clients))
        self._digests[merge.version] = merge.digest
        self._digests.pop(merge.version - self._max_staleness - 1, None)
        return Merged(merge, len(clients), self._epsilon())

    def memory_for(self, released: Released) -> RunMemory | None:
        """Return what to remember before a release is handed out; None if it was before."""
        version = released.merge.version
        if version <= self._handed_out:
            return None
        oldest = version - self._max_staleness
        return RunMemory(
            version,
            self._first_version,
            {known: digest for known, digest in self._digests.items() if known < version}
            | {version: released.merge.digest},
            tuple(
                contribution
                for release, contribution in self._contributions
                if release <= version and contribution[0] >= oldest
            ),
            record_digest(released.record),
            self._spent_up_to(version),
            self._privacy,
        )

    def handed_out(self, memory: RunMemory) -> None:
        """Note that a release is remembered."""
        self._handed_out = memory.version
        self._spent = Counter(memory.spent)
        self._charges = [charge for charge in self._charges if charge[0] > memory.version]
        kept = set(memory.contributions)
        self._contributions = [
            (release, contribution)
            for release, contribution in self._contributions
            if release > memory.version or contribution in kept
        ]

    def _continue(self, memory: RunMemory) -> None:
        version = self.engine.version
        if (version, self._digests[version]) != (memory.version, memory.digests[memory.version]):
            raise RunRejected(Code.RUN_REGRESSED)
        if memory.privacy != self._privacy:
            raise RunRejected(Code.DP_CHANGED)
        self._digests = dict(memory.digests)
        self._first_version = memory.first_version
        self._contributions = [(version, contribution) for contribution in memory.contributions]
        self.engine.ledger.restore(memory.first_version, memory.contributions)
        self._spent = Counter(memory.spent)
        if self.engine.budget is not None:
            self.engine.budget.restore(memory.spent)

    def _spent_up_to(self, version: int) -> Counter[str]:
        """Return releases by client; whoever has a version knows of all merges before it."""
        spent = self._spent.copy()
        for release, clients in self._charges:
            if release <= version:
                spent.update(clients)
        return spent

    def _epsilon(self) -> str:
        privacy, budget = self.engine.privacy, self.engine.budget
        return NO_PRIVACY if not privacy or not budget else privacy.stated(budget.most_spent)

    def keep(self, released: Released) -> None:
        """Keep a release for the server to fetch, dropping the oldest beyond the bounds."""
        self._released.append(released)
        while len(self._released) > self._most_kept():
            self._released.popleft()

    def _most_kept(self) -> int:
        return max(2, min(_KEPT_RELEASES, _KEPT_BYTES // self.engine.params.nbytes))

    def _unfetched(self) -> int:
        return sum(released.merge.version > self._handed_out for released in self._released)

    def release(self, version: int) -> Released:
        """Return a release; raises RunRejected ``RELEASE_NOT_READY``."""
        for released in self._released:
            if released.merge.version == version:
                return released
        if self._released and 0 < version <= self.engine.version:
            raise RunRejected(
                Code.RELEASE_NOT_READY,
                f"Release {version} is not kept any more; the oldest kept is "
                f"{self._released[0].merge.version}.",
            )
        raise RunRejected(Code.RELEASE_NOT_READY)


def rule_of(policy: EnclavePolicy) -> ReleaseRule:
    """Return the policy's release rule; raises BadOption."""
    return ReleaseRule(
        policy.k,
        policy.max_per_client,
        policy.max_share,
        policy.min_effective,
        policy.max_leverage,
    )


def agreed_recipe(recipe_json: str, policy: EnclavePolicy) -> Recipe:
    """Read the recipe asked for and insist that it is safe and the policy's.

    Raises
    ------
    RunRejected
        ``LEAKY_RECIPE`` when its releases could be differenced, ``RUN_RECIPE`` otherwise.
    """
    try:
        members = canonical.parse_object(recipe_json.encode(), _MAX_RECIPE_BYTES)
        recipe = _recipe(members)
        agreed = _recipe(policy.recipe)
        refuse_leaky(recipe, rule_of(policy))
    except LeakyRecipe as error:
        raise RunRejected(Code.LEAKY_RECIPE, error.sentence) from error
    except (UnknownRecipe, BadOption) as error:
        raise RunRejected(Code.RUN_RECIPE, error.sentence) from error
    except (CanonicalError, KeyError, TypeError) as error:
        raise RunRejected(Code.RUN_RECIPE, "The recipe asked for could not be read.") from error
    if (recipe.name, recipe.options()) != (agreed.name, agreed.options()):
        raise RunRejected(Code.RUN_RECIPE)
    return recipe


def read_layout(layout_json: str) -> Layout:
    """Read a layout strictly; raises RunRejected ``RUN_MANIFEST``."""
    try:
        canonical.check_nesting(layout_json)
        return Layout.from_json(layout_json)
    except CanonicalError as error:
        raise RunRejected(Code.RUN_MANIFEST) from error
    except ManifestMismatch as error:
        raise RunRejected(Code.RUN_MANIFEST, error.sentence) from error


def _recipe(members: Mapping[str, object]) -> Recipe:
    name, options = members["name"], members["options"]
    if type(name) is not str or not isinstance(options, Mapping):
        raise TypeError("a recipe has a name and options")
    return recipe_from(name, **options)
