"""The pictures of a run, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from asynclave.run.history import History, SpeedUp

Drawing = Callable[[Axes], None]
_COLOURS = ("#1f6feb", "#d1495b", "#6a994e")


def draw_all(
    directory: Path, asynchronous: History, synchronous: History | None, gain: SpeedUp | None
) -> list[Path]:
    """Draw every picture of a run into ``directory`` and return the files in reading order."""
    curves = [asynchronous] if synchronous is None else [asynchronous, synchronous]
    return [
        _save(directory / "accuracy.png", lambda axes: _accuracy(axes, curves, gain)),
        _save(directory / "staleness.png", lambda axes: _staleness(axes, asynchronous)),
        _save(directory / "participation.png", lambda axes: _participation(axes, asynchronous)),
    ]


def _save(path: Path, draw: Drawing) -> Path:
    figure = Figure(figsize=(8, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    figure.savefig(path)
    return path


def _accuracy(axes: Axes, curves: Sequence[History], gain: SpeedUp | None) -> None:
    for curve, colour in zip(curves, _COLOURS, strict=False):
        times = [point.time for point in curve.evaluations]
        accuracies = [point.accuracy for point in curve.evaluations]
        axes.step(times, accuracies, where="post", color=colour, label=curve.name, linewidth=1.8)
    if gain is not None:
        axes.hlines(
            gain.target, gain.asynchronous, gain.synchronous, color="#444", linestyle=":", zorder=3
        )
        axes.annotate(
            f"{gain.target:.1%} reached {gain.ratio:.2f}x sooner",
            ((gain.asynchronous + gain.synchronous) / 2, gain.target),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
        )
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set(xlabel="virtual time (median task durations)", ylabel="test accuracy", ylim=(0, 1))
    axes.set_title("Accuracy over virtual time, same devices and data")
    axes.legend(loc="lower right", frameon=False)


def _staleness(axes: Axes, history: History) -> None:
    top = max(history.staleness, default=0)
    axes.hist(history.staleness, bins=range(top + 2), color=_COLOURS[0], align="left")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_yscale("log")
    axes.set(xlabel="staleness (model versions)", ylabel="accepted updates")
    axes.set_title("Staleness of accepted updates")


def _participation(axes: Axes, history: History) -> None:
    ranked = history.participation.most_common()
    axes.bar(range(len(ranked)), [count for _, count in ranked], color=_COLOURS[0])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="client, most active first", ylabel="accepted updates")
    axes.set_title("Accepted updates per client")
