"""The command line: ``asynclave run``, ``verify-run``, ``simulate``, ``up``, ``down``, ..."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from asynclave._version import __version__
from asynclave.chaos.command import app as chaos_app
from asynclave.deployment.commands import down_command, init_command, up_command
from asynclave.doctor.command import doctor_command
from asynclave.evidence import app as evidence_app
from asynclave.ledger.command import app as ledger_app
from asynclave.simulate.command import simulate_command
from asynclave.verification.command import verify_run_command
from fl_protocol.codes import AsynclaveError, Code, ConfigInvalid

if TYPE_CHECKING:
    from strategies.errors import StrategyError

app = typer.Typer(
    name="asynclave",
    help="Asynchronous, confidential federated learning for Flower.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class StrategyName(StrEnum):
    """The strategies that `asynclave run` offers."""

    ASYNC_WA = "async-wa"
    FEDBUFF = "fedbuff"
    FEDASYNC = "fedasync"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


@app.command()
def run(
    config: Annotated[Path | None, typer.Option(help="TOML file with the run's settings.")] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Without the trust path.")] = False,
    clients: Annotated[int | None, typer.Option(help="Number of edge clients.")] = None,
    merges: Annotated[int | None, typer.Option(help="Model versions to produce.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of data, devices and training.")] = None,
    strategy: Annotated[StrategyName | None, typer.Option(help="Aggregation recipe.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run, which was cut off; no other settings.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end.")] = False,
) -> None:
    """Train MNIST-5k over simulated edge clients, asynchronously and confidentially."""
    # Imported here so that --help does not wait for torch.
    from asynclave.config import load_config
    from asynclave.run.job import resume_job, run_job

    if resume is not None:
        given = (config, clients, merges, seed, strategy, output)
        if plain or any(setting is not None for setting in given):
            raise ConfigInvalid(
                Code.CONFIG_INVALID, "--resume takes a run as it was begun, without other settings."
            )
        raise typer.Exit(resume_job(resume, as_json=json))
    loaded = load_config(
        config,
        {
            "devices": {"clients": clients},
            "strategy": {"name": strategy and strategy.value},
            "run": {"merges": merges, "seed": seed, "output": output},
        },
    )
    raise typer.Exit(run_job(loaded, plain=plain, as_json=json))


app.command("simulate")(simulate_command)
app.command("init")(init_command)
app.command("up")(up_command)
app.command("down")(down_command)
app.command("doctor")(doctor_command)
app.command("verify-run")(verify_run_command)
app.add_typer(evidence_app, name="evidence")
app.add_typer(ledger_app, name="ledger")
app.add_typer(chaos_app, name="chaos")


def main() -> None:
    """Run the command line; a typed error prints its code and sentence and exits with 2."""
    try:
        app()
    except AsynclaveError as error:
        _refuse(error)
    except Exception as error:
        # Not at the top: numpy fixes its number of threads when it is first imported.
        from strategies.errors import StrategyError

        if not isinstance(error, StrategyError):
            raise
        _refuse(error)


def _refuse(error: AsynclaveError | StrategyError) -> None:
    # Sentences quote what users gave, which is no markup.
    Console(stderr=True).print(Text.assemble((error.code, "bold red"), ": ", error.sentence))
    sys.exit(2)
