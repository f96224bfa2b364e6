"""Holding a release back that would give a single update away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from strategies.batch import Batch, last_words, normalised_weights
from strategies.drift import DeltaCache
from strategies.leverage import Coefficients, LeverageMeter, UpdateKey
from strategies.recipe import Parts
from strategies.release import ReleaseRule

HORIZON = 32
"""Releases looked at together where updates are in several: see docs/experiments/leverage.md."""

_ROUNDING = 1e-9


class LeverageGuard:
    """Tells whether a buffer may be released without giving a single update away.

    What is released is a function of the aggregates of all merges and of nothing else about the
    updates, so the aggregates are taken as released: for a server step that can be undone (SGD,
    with momentum or a published mean) that is the same, for another (AMSGrad) it is no less than
    an observer can know.

    With cached deltas a buffer must keep the bound on its own, too. The cached mean hides an update
    from others in its buffer who collude, but changes so little from release to release that they
    would know how it differs from their victim's last one. And running statistics are released
    without it.

    Parameters
    ----------
    bound : float
        Largest leverage of any update, and of what one client has in a buffer.
    rule : ReleaseRule
        The release rule in force; as many as k - 1 clients may collude.
    parts : Parts
        The recipe's parts, with a window of disjoint buffers.
    cache : DeltaCache, optional
        The engine's cached deltas; without them no update is in two releases.
    """

    def __init__(
        self,
        bound: float,
        rule: ReleaseRule,
        parts: Parts,
        cache: DeltaCache | None,
    ) -> None:
        self._rule, self._parts, self._cache = rule, parts, cache
        self._alone = None if cache is None else LeverageMeter(rule.k - 1, 1)
        self._bound = bound * (1 + _ROUNDING)
        self._meter = LeverageMeter(rule.k - 1, 1 if cache is None else HORIZON)
        self._newest: dict[str, int] = {}
        self._judged: tuple[Coefficients, bool] | None = None
        self._num_judged = 0

    def holds_back(self, num_updates: int, buffer: Callable[[], Batch]) -> bool:
        """Whether releasing the buffer now would pass the bound.

        Parameters
        ----------
        num_updates : int
            Updates in the buffer; the answer is kept until there are more.
        buffer : callable
            Returns the batch that a merge would work on.

        Returns
        -------
        bool
        """
        if self._judged is None or self._num_judged != num_updates:
            batch = buffer()
            weights = self._weights(batch)
            coefficients = self._coefficients(batch, weights)
            exposed = self._meter.worst_after(_by_client(coefficients, weights)) > self._bound
            if self._alone is not None and not exposed:
                exposed = self._alone.worst_after(_by_client(weights, weights)) > self._bound
            self._judged, self._num_judged = (coefficients, exposed), num_updates
        return self._judged[1]

    def released(self, batch: Batch) -> None:
        """Note that the buffer judged last was released."""
        assert self._judged is not None
        self._meter.add(self._judged[0])
        if self._cache is not None:
            for client in batch.departed:
                self._newest.pop(client, None)
            for client, index in last_words(batch.updates)[1].items():
                self._newest[client] = batch.updates[index].base_version

    def forget_buffer(self) -> None:
        """Judge anew: the buffer is another one."""
        self._judged = None

    def state(self) -> dict[str, Any]:
        """Return JSON data that :meth:`restore` reads."""
        return {"releases": self._meter.state(), "newest": list(self._newest.items())}

    def restore(
        self,
        releases: Iterable[Iterable[tuple[str, int, float]]],
        newest: Iterable[tuple[str, int]],
    ) -> None:
        """Continue from a saved state."""
        self._meter.restore(releases)
        self._newest = {client: base for client, base in newest}
        self.forget_buffer()

    def _coefficients(self, batch: Batch, weights: Coefficients) -> Coefficients:
        """Return the aggregate's coefficients, as :class:`BufferMean` sums it up."""
        updates = batch.updates
        if self._cache is None:
            return weights
        row = dict(weights)
        departed = set(batch.departed)
        words = {c: (c, base) for c, base in self._newest.items() if c not in departed}
        volume = self._parts.volume
        uploads = {
            client: volume.weight(updates[index].num_examples)
            for client, index in last_words(updates)[1].items()
        }
        shares = self._cache.shares(uploads, departed, self._rule)
        row |= {words[client]: share for client, share in shares.items()}
        for (client, _), weight in weights.items():
            if client in words:
                row[words[client]] = row.get(words[client], 0.0) - weight
        return row

    def _weights(self, batch: Batch) -> Coefficients:
        weights = normalised_weights(self._parts, batch)
        return {
            (update.client, update.base_version): weight
            for update, weight in zip(batch.updates, weights, strict=True)
        }


def _by_client(release: Coefficients, new: Coefficients) -> Coefficients:
    """Return a release in which all that a client sent for it is one update.

    Of several updates none may be known and yet the sum of them. Their columns are in no other
    release so far, and one as long as they are together has the leverage of the best known of all
    their combinations.
    """
    joint = {key: value for key, value in release.items() if key not in new}
    firsts: dict[str, UpdateKey] = {}
    for key in new:
        first = firsts.setdefault(key[0], key)
        joint[first] = math.hypot(joint.get(first, 0.0), release[key])
    return joint


def guard_for(
    rule: ReleaseRule | None, parts: Parts, cache: DeltaCache | None
) -> LeverageGuard | None:
    """Return the guard that a release rule asks for, or None."""
    if rule is None or rule.max_leverage is None:
        return None
    return LeverageGuard(rule.max_leverage, rule, parts, cache)
