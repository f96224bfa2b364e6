"""The server half: `AsyncWA` stands where an ordinary app has `FedAvg`, nothing else differs."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from asynclave import AsyncWA
from quickstart.task import Net

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train until the asked number of model versions is reached."""
    settings = context.run_config
    state_folder = str(settings["state-folder"]) or None
    strategy = AsyncWA(
        buffer_size=int(settings["buffer-size"]),
        fraction_evaluate=float(settings["fraction-evaluate"]),
        # A path switches to confidential mode: only the enclave ever sees a single update.
        gateway=str(settings["asynclave-server-config"]) or None,
        state_folder=state_folder,
        run_name=str(settings["run-name"]) if state_folder else None,
    )
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(settings["num-server-rounds"]),
    )
    for version, metrics in sorted(result.evaluate_metrics_clientapp.items()):
        print(f"Version {version}: accuracy on the clients' test data {metrics['eval_acc']:.3f}")
