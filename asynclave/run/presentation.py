"""What the job says at its end: to the terminal and to the report page."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table as RichTable

from asynclave.run.outcome import Outcome
from asynclave.run.plots import draw_all
from asynclave.run.record import RunDirectory, state_of
from asynclave.run.report import Figure, Report, Table, render


def write(outcome: Outcome, directory: RunDirectory) -> None:
    """Write model, figures, plots and ``report.html``, as far as the job got."""
    if outcome.arrays is not None:
        arrays = {name: array.numpy() for name, array in outcome.arrays.items()}
        directory.model(arrays, outcome.asynchronous.digest)
    directory.summary(outcome.summary())
    images = draw_all(directory.path, outcome.asynchronous, outcome.synchronous, outcome.gain)
    report = Report(
        title=outcome.run_id,
        status=_status(outcome),
        figures=tuple(_figures(outcome)),
        tables=(
            Table("Result", tuple(_rows(outcome))),
            Table(
                "Updates by outcome",
                tuple((code, str(n)) for code, n in sorted(outcome.asynchronous.codes.items())),
            ),
        ),
        config=outcome.config.model_dump_json(indent=2),
        images=images,
        confidential=not outcome.plain,
    )
    (directory.path / "report.html").write_text(render(report), encoding="utf-8")


def show(outcome: Outcome, console: Console) -> None:
    """Print the result."""
    table = RichTable.grid(padding=(0, 2))
    table.add_column(style="bold")
    for label, value in _rows(outcome):
        table.add_row(label, value)
    table.add_row("report", str(outcome.directory / "report.html"))
    console.print()
    console.print(_status(outcome))
    console.print(table, highlight=False)
    if outcome.status == "interrupted" and state_of(outcome.directory).is_dir():
        go_on = f"To go on: asynclave run --resume {shlex.quote(str(outcome.directory))}"
        console.print(go_on, markup=False, highlight=False, soft_wrap=True)


def _status(outcome: Outcome) -> str:
    evaluations = outcome.asynchronous.evaluations
    version = evaluations[-1].version if evaluations else 0
    return f"Run {outcome.status} at version {version} of {outcome.config.run.merges}."


def _figures(outcome: Outcome) -> Iterator[Figure]:
    run, gain = outcome.asynchronous, outcome.gain
    yield Figure(f"{run.final_accuracy:.1%}", "test accuracy of the last version")
    yield Figure(f"{run.accepted:,}", "accepted updates")
    if gain is not None:
        yield Figure(f"{gain.ratio:.2f}x", f"sooner at {gain.target:.1%} than FedAvg")
    if outcome.trust_cost is not None:
        yield Figure(f"{1e3 * outcome.trust_cost:.1f} ms", "trust path per update")
    if outcome.canary is not None:
        yield Figure("not found" if outcome.canary.passed else "LEAKED", "planted canary tensor")


def _rows(outcome: Outcome) -> Iterator[tuple[str, str]]:
    run = outcome.asynchronous
    accepted = run.accepted
    yield "accuracy", f"{run.final_accuracy:.1%} (best {run.best_accuracy:.1%})"
    yield "updates", f"{accepted} accepted, {run.updates - accepted} refused or failed"
    if run.staleness:
        mean = sum(run.staleness) / len(run.staleness)
        yield "staleness", f"mean {mean:.1f}, largest {max(run.staleness)} versions"
    yield from _comparison(outcome)
    yield from _trust(outcome)
    yield "model digest", run.digest


def _comparison(outcome: Outcome) -> Iterator[tuple[str, str]]:
    baseline, gain = outcome.synchronous, outcome.gain
    if baseline is None:
        return
    yield (
        "FedAvg",
        f"{baseline.final_accuracy:.1%} (best {baseline.best_accuracy:.1%}), "
        "same devices, as many updates",
    )
    if gain is None:
        yield "sooner", "no common accuracy was reached"
        return
    yield (
        "sooner",
        f"{gain.ratio:.2f}x: {gain.target:.1%} at virtual time {gain.asynchronous:.1f} "
        f"instead of {gain.synchronous:.1f} median task durations",
    )


def _trust(outcome: Outcome) -> Iterator[tuple[str, str]]:
    twin, cost, canary = outcome.twin, outcome.trust_cost, outcome.canary
    if twin is not None and cost is not None:
        yield (
            "trust path",
            f"{1e3 * cost:.1f} ms per update ({1e3 * twin.seconds_per_update():.1f} ms plain, "
            f"{1e3 * outcome.asynchronous.seconds_per_update():.1f} ms sealed)",
        )
        same = twin.digest == outcome.asynchronous.digest
        yield "same model", f"without the trust path: {'yes' if same else 'NO'}, by digest"
    if canary is not None:
        places = (
            f"{canary.num_files} files, {canary.wire_bytes / 1e6:.0f} MB on the wire, "
            "memory of gateway and launcher"
        )
        verdict = f"FOUND in {', '.join(canary.found_in)}" if canary.found_in else "not found"
        control = "found" if canary.control else "NOT FOUND"
        yield "canary", f"{verdict} in {places} (control, in this process: {control})"
        if canary.not_searched:
            yield "", f"NOT searched, for lack of permission: {', '.join(canary.not_searched)}"
        if canary.in_enclave:
            yield "", "root can read it in the enclave: the TEE is simulated"
