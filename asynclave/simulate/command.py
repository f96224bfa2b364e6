"""``asynclave simulate``; its errors are `AsynclaveError`s and `StrategyError`s."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer


def simulate_command(
    config: Annotated[Path | None, typer.Option(help="TOML file with the settings.")] = None,
    strategy: Annotated[
        str | None, typer.Option(help="Aggregation recipe; one of your own as module:Class.")
    ] = None,
    dispatch: Annotated[
        str | None, typer.Option(help="Selection policy: who gets the next tasks.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds.")] = None,
    workers: Annotated[int | None, typer.Option(help="Seeds to run side by side.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for results and plot.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Compare aggregation recipes on simulated devices, in virtual time."""
    # Before numpy and torch are asked for products: one thread per run gives one result.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # Where recipes of one's own are looked for; last, so that nothing there hides a library.
    sys.path.append(os.getcwd())
    from rich.console import Console

    from asynclave.simulate.plots import draw
    from asynclave.simulate.progress import SweepProgress
    from fl_protocol.codes import Code, ConfigInvalid
    from fl_sim.simulation.config import load_config
    from fl_sim.simulation.results_file import results_beside
    from fl_sim.simulation.sweep import finished, simulate

    overrides: dict[str, dict[str, Any]] = {
        "strategy": {"name": strategy},
        "dispatch": {"policy": dispatch},
        "run": {"seeds": seeds, "workers": workers, "output": output},
    }
    loaded = load_config(config, overrides)
    results = loaded.run.output / "results.jsonl"
    key = loaded.key()
    picture = loaded.run.output / f"accuracy-{key}.png"
    missing = set(loaded.run.all_seeds) - set(finished(loaded, results))
    if picture.is_dir():
        raise ConfigInvalid(
            Code.CONFIG_INVALID, f"run.output: {picture} is a folder, and the plot has that name."
        )
    errors = Console(stderr=True)
    try:
        with SweepProgress(errors, loaded.strategy.name, len(missing)) as progress:
            result = simulate(loaded, results=results, on_progress=progress)
    except KeyboardInterrupt:
        kept = f"Interrupted. Seeds that had finished are in {results}; the same command goes on."
        errors.print(kept, markup=False, highlight=False, soft_wrap=True)
        raise
    draw(picture, results_beside(results, key, result))
    for complaint in filter(None, (run.complaint for run in result.runs)):
        errors.print(complaint, style="yellow", markup=False, highlight=False, soft_wrap=True)
    summary = result.summary()
    if as_json:
        print(json.dumps(summary))
        return
    console = Console()
    accuracy, target = summary["final_accuracy"], summary["time_to_target"]
    fairness = summary["fairness"]["mean"]
    console.print(
        f"[bold]{result.strategy}[/]: accuracy {accuracy['mean']:.1%} "
        f"(standard deviation {accuracy['std']:.1%}) over {len(result.runs)} seeds, "
        f"{summary['updates_per_second']:.0f} updates/s per process, fairness {fairness:.2f}"
    )
    if loaded.run.target_accuracy is not None:
        median = "never" if target["median"] is None else f"{target['median']:.1f} median tasks"
        console.print(
            f"accuracy {loaded.run.target_accuracy:.1%}: {median}, "
            f"reached by {target['reached']} of {len(result.runs)} seeds"
        )
    places = f"results: {results}\nplot: {picture}"
    console.print(places, markup=False, highlight=False, soft_wrap=True)
