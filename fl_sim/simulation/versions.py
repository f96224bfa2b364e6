"""Model versions that somebody still trains from, and nothing older."""

from __future__ import annotations

from strategies.update import Vector


class LiveVersions:
    """Keeps the models under which tasks are under way, each as long as there is one."""

    def __init__(self) -> None:
        self._models: dict[int, Vector] = {}
        self._uses: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._models)

    def __contains__(self, version: int) -> bool:
        return version in self._models

    def hold(self, version: int, params: Vector, uses: int) -> None:
        """Note that `uses` more tasks start from a version."""
        if uses:
            self._models[version] = params
            self._uses[version] = self._uses.get(version, 0) + uses

    def model(self, version: int) -> Vector:
        """Return the model of a live version."""
        return self._models[version]

    def release(self, version: int) -> None:
        """Note that one task less needs the version."""
        self._uses[version] -= 1
        if not self._uses[version]:
            del self._models[version], self._uses[version]
