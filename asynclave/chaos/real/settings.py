"""What the processes of a chaos run are told."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fl_server.stack import StackSettings
from strategies.layout import Layout
from strategies.recipe import Recipe
from strategies.recipes.fedbuff import FedBuff

RUN = "chaos"
BUFFER = 3
# Anything distinct for each kind of task; there is one.
TASK = "0" * 64


def recipe() -> Recipe:
    """Return the recipe of the run."""
    return FedBuff(buffer_size=BUFFER)


def stack_settings() -> StackSettings:
    """Return policy and patience of the run."""
    return StackSettings(
        recipe=recipe(), k=BUFFER, federation="chaos", node_patience=20.0, run_patience=20.0
    )


@dataclass(frozen=True)
class ProcessConfig:
    """Settings of a server or of a client process.

    Attributes
    ----------
    bundle : str
        Path of its bundle.
    folder : str
        Where it keeps its state: the run's folder, or the client's log.
    socket : str
        Unix socket of the server.
    num_params : int
        Size of the model.
    seed : int
        Of a client's updates and pauses.
    pause : float
        Mean seconds between two tasks of a client.
    clock : str
        File with the offset of a client's clock.
    """

    bundle: str
    folder: str
    socket: str
    num_params: int
    seed: int = 0
    pause: float = 0.2
    clock: str = ""

    @property
    def layout(self) -> Layout:
        """The model's layout."""
        return Layout.from_json(
            json.dumps(
                {"arrays": [["w", "float32", [self.num_params]]], "v": 1},
                sort_keys=True,
                separators=(",", ":"),
            )
        )

    def save(self, path: Path) -> Path:
        """Write it as JSON and return the path."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: Path | str) -> ProcessConfig:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
