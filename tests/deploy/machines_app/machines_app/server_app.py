"""A server that trains and writes down the digest of the model that came out."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from asynclave import AsyncWA
from machines_app import SIZE

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    settings = context.run_config
    strategy = AsyncWA(buffer_size=2, fraction_evaluate=0.0, gateway=str(settings["server-config"]))
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"weights": Array(np.zeros(SIZE, np.float32))}),
        num_rounds=int(settings["versions"]),
    )
    (weights,) = result.arrays.to_numpy_ndarrays()
    outcome = {"nodes": len(list(grid.get_node_ids())), "mean": float(weights.mean())}
    weights.astype("<f4").tofile(str(settings["output"]))
    Path(f"{settings['output']}.json").write_text(json.dumps(outcome))
