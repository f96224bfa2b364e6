"""Progress of a sweep on the terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from fl_sim.simulation.evaluations import Evaluation


class SweepProgress:
    """A bar over the virtual time of the seeds to run; a line per seed when there is no terminal.

    Parameters
    ----------
    console : Console
        Where to draw.
    name : str
        What to call the sweep.
    num_seeds : int
        Number of seeds to run.
    """

    def __init__(self, console: Console, name: str, num_seeds: int) -> None:
        # Seeds side by side are all under way; finished ones stay at 1.
        self._shares: dict[int, float] = {}
        self._console, self._name = console, name
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(escape(name), total=num_seeds, state="")

    def __enter__(self) -> SweepProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def __call__(self, seed: int, share: float, evaluation: Evaluation) -> None:
        """Show the state after an evaluation of a seed."""
        if share >= 1.0 and not self._console.is_terminal:
            self._console.print(
                f"{self._name}: seed {seed}, accuracy {evaluation.accuracy:.1%}",
                markup=False,
                highlight=False,
            )
        self._shares[seed] = share
        self._bar.update(
            self._task,
            completed=sum(self._shares.values()),
            state=f"seed {seed}, accuracy {evaluation.accuracy:.1%}",
        )
