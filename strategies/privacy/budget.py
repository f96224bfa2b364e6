"""How many releases hold content of each client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from strategies.privacy.settings import Privacy
from strategies.reject import Reject


class Budget:
    """Counts releases by client and says when one has spent what it may.

    Counts depend on arrivals, not on content, so that stopping at a bound is no leak; but for
    updates with NaN, infinite values or a norm above 2**100, which are refused before.

    Parameters
    ----------
    privacy : Privacy
        The bound.

    Attributes
    ----------
    spent : Counter of str
        Releases by client.
    """

    def __init__(self, privacy: Privacy) -> None:
        self._privacy, self._most = privacy, privacy.releases_per_client
        self.spent: Counter[str] = Counter()

    @property
    def most_spent(self) -> int:
        """Releases that hold content of the client in most of them."""
        return max(self.spent.values(), default=0)

    @property
    def epsilon(self) -> float:
        """What has been spent of that client."""
        return self._privacy.epsilon_after(self.most_spent)

    def screen(self, client: str) -> Reject | None:
        """Return DP_BUDGET if a further release may not hold content of a client."""
        return Reject.DP_BUDGET if self.spent[client] >= self._most else None

    def charge(self, clients: Iterable[str]) -> None:
        """Count a release; a client with several updates in it once."""
        self.spent.update(set(clients))

    def restore(self, spent: Mapping[str, int]) -> None:
        """Go on from counts taken before."""
        self.spent = Counter(spent)
