"""Live progress of a run on the terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from asynclave.run.history import History

_PLAIN_EVERY = 50


class LiveProgress:
    """Shows virtual time, version, accuracy, staleness and refusals while a strategy runs.

    On a terminal the view redraws in place; elsewhere every fiftieth merge prints one line.

    Parameters
    ----------
    console : Console
        Where to draw.
    history : History
        The history that the run fills.
    merges : int
        Number of merges to come.
    """

    def __init__(self, console: Console, history: History, merges: int) -> None:
        self._console = console
        self._history = history
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("merges"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task = self._bar.add_task(history.name, total=merges)
        self._live = Live(console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> LiveProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def refresh(self, time: float, version: int) -> None:
        """Show the state at a virtual time, after the merge that made ``version``."""
        self._bar.update(self._task, completed=version)
        if self._console.is_terminal:
            self._live.update(Group(self._bar, self._table(time, version)))
        elif version % _PLAIN_EVERY == 0:
            self._console.print(self._line(time, version), highlight=False)

    def _table(self, time: float, version: int) -> Table:
        history = self._history
        recent = history.staleness[-100:]
        table = Table.grid(padding=(0, 2))
        table.add_row("virtual time", f"{time:.1f} median tasks")
        table.add_row("model version", str(version))
        table.add_row("accuracy", f"{history.final_accuracy:.1%}")
        table.add_row(
            "staleness",
            f"mean {sum(recent) / max(1, len(recent)):.1f}, max {max(recent, default=0)}",
        )
        for code, count in sorted(history.codes.items()):
            table.add_row(code, str(count))
        return table

    def _line(self, time: float, version: int) -> str:
        codes = " ".join(f"{code}={count}" for code, count in sorted(self._history.codes.items()))
        return (
            f"{self._history.name}: version {version}, virtual time {time:.1f}, "
            f"accuracy {self._history.final_accuracy:.1%}, {codes}"
        )
