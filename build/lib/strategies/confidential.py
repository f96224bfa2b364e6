"""What a release rule asks of a recipe before the first update."""

from __future__ import annotations

from collections.abc import Sequence

from strategies.batch import Pending
from strategies.errors import BadOption, LeakyRecipe
from strategies.recipe import Recipe
from strategies.reject import Reject
from strategies.release import ReleaseRule
from strategies.robust.robustness import Robustness
from strategies.window import Buffer, Window


def require_confidential(recipe: Recipe) -> None:
    """Raise unless a recipe can run inside an enclave at all.

    Raises
    ------
    LeakyRecipe
        Successive models of the recipe can be differenced, or its filter picks single values.
    BadOption
        The recipe writes updates to disk in the clear.
    """
    if not recipe.disjoint:
        raise LeakyRecipe(
            f"{recipe.name} releases models whose windows overlap or hold one update: their "
            "differences can be solved for single updates. Use disjoint buffers "
            "(FedBuff, or AsyncWA with disjoint=True), or run without a release rule and gateway."
        )
    parts = recipe.parts()
    if parts.robust is not None and not parts.robust.chooses_whole_updates:
        raise LeakyRecipe(
            f'robust = "{parts.robust.kind}" releases no weighted mean of whole updates: what it '
            "picks or weighs by content can be one client's own values. Use clip or krum, or run "
            "without a release rule and gateway."
        )
    drift = parts.drift
    if drift is not None and drift.kind == "disk":
        raise BadOption(
            'cache = "disk" writes updates in the clear, outside of the enclave; choose '
            '"bfloat16" or "sketch" to save memory, or run without a release rule and gateway.'
        )


def refuse_leaky(recipe: Recipe, rule: ReleaseRule | None) -> None:
    """Raise unless the recipe is safe under the release rule.

    Parameters
    ----------
    recipe : Recipe
        The aggregation rule.
    rule : ReleaseRule, optional
        The release rule; None allows every recipe.

    Raises
    ------
    LeakyRecipe
        Successive models of the recipe can be differenced, or its filter picks single values.
    BadOption
        The recipe caches fewer clients than the rule wants mixed, caches them on disk, or leaves
        fewer of them in a buffer.
    """
    if rule is None:
        return
    require_confidential(recipe)
    parts = recipe.parts()
    if parts.robust is not None and parts.robust.kind == "krum":
        _check_choice(parts.robust, parts.window, rule)
    drift = parts.drift
    if drift is not None and drift.max_clients is not None and drift.max_clients < rule.k:
        raise BadOption("max_clients must be at least the release rule's k.")
    if rule.max_leverage is not None and not isinstance(parts.window, Buffer):
        raise BadOption("A bound on leverage needs a recipe with disjoint buffers.")


def _check_choice(robust: Robustness, window: Window, rule: ReleaseRule) -> None:
    """Raise unless those that a filter chooses always keep the rule without the others."""
    suspects = robust.suspects(window.size)
    if window.size - suspects < rule.k:
        raise BadOption(
            f"Krum leaves {suspects} of {window.size} updates out, and fewer than the release "
            f"rule's k = {rule.k} remain: take a larger buffer_size or fewer attackers."
        )
    if rule.max_per_client != 1:
        raise BadOption("Krum needs max_per_client = 1: k updates must come from k clients.")
    if rule.max_leverage is not None:
        raise BadOption(
            "A bound on leverage needs public coefficients; which updates Krum chooses stays "
            "inside the enclave. Leave max_leverage out, or use robust = clip."
        )


def over_quota(client: str, waiting: Sequence[Pending], rule: ReleaseRule | None) -> Reject | None:
    """Return CLIENT_QUOTA if a client has used its share of the buffer under the rule."""
    if rule is None:
        return None
    sent = sum(update.client == client for update in waiting)
    return Reject.CLIENT_QUOTA if sent >= rule.max_per_client else None


def capacity(window: Window, rule: ReleaseRule | None) -> int:
    """Return the most updates that can wait for one merge.

    Parameters
    ----------
    window : Window
        The recipe's window.
    rule : ReleaseRule, optional
        The release rule in force.

    Returns
    -------
    int
    """
    size = window.size if isinstance(window, Buffer) else 1
    if rule is None:
        return size
    # k - 1 clients may use up their quota before the k-th distinct client arrives.
    most = max(size, (rule.k - 1) * rule.max_per_client + 1)
    # A buffer held back hides more with every client that joins; k more outnumber k - 1 colluders.
    return most if rule.max_leverage is None else most + rule.k
