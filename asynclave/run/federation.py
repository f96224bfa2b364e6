"""The simulated federation of a run: data, devices, model and the grid that joins them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, Context, MetricRecord, UserConfig
from flwr.clientapp.typing import Mod

from asynclave.config import RunConfig
from fl_client.app import LocalData, make_client_app
from fl_client.optimiser import SGD
from fl_client.trainer import Batch, TrainSettings, evaluate, mlp
from fl_sim.data import Examples, federated_mnist
from fl_sim.devices import Devices, lognormal_devices
from fl_sim.failures import Failures
from fl_sim.grid import VirtualGrid

_PIXELS, _CLASSES = 28 * 28, 10


@dataclass(frozen=True)
class Federation:
    """Everything that the runs under comparison share."""

    config: RunConfig
    clients: tuple[LocalData, ...]
    test: Batch
    devices: Devices

    @classmethod
    def build(cls, config: RunConfig) -> Federation:
        """Load and split the data and draw the devices; a pure function of the configuration."""
        torch.set_num_threads(1)
        seed, fleet = config.run.seed, config.devices
        data = federated_mnist(fleet.clients, alpha=config.data.alpha, seed=seed)
        test = _tensors(data.test)
        devices = lognormal_devices(
            fleet.clients,
            sigma=fleet.sigma,
            jitter=fleet.jitter,
            seed=seed,
            slowness=data.rare_shares() if fleet.slow_hold_rare else None,
        )
        clients = tuple(LocalData(_tensors(part), test) for part in data.clients)
        return cls(config, clients, test, devices)

    def initial_arrays(self) -> ArrayRecord:
        """Return the untrained model, the same for every run of a seed."""
        torch.manual_seed(self.config.run.seed)
        return ArrayRecord(self._model().state_dict())

    def grid(
        self,
        mods: list[Mod] | None = None,
        node_configs: Mapping[int, UserConfig] | None = None,
        start: float = 0.0,
    ) -> VirtualGrid:
        """Return a grid from a virtual time on around the ClientApp of every device."""
        train, seed = self.config.train, self.config.run.seed
        app = make_client_app(
            self._load,
            self._model,
            settings=TrainSettings(SGD(train.lr), train.batch_size, train.local_epochs, seed),
            mods=mods,
        )
        return VirtualGrid(
            app,
            self.config.devices.clients,
            self.devices,
            failures=Failures(drop_out=self.config.devices.dropout, seed=seed),
            node_configs=node_configs,
            start=start,
        )

    def evaluate_fn(self) -> Callable[[int, ArrayRecord], MetricRecord]:
        """Return a server-side evaluation on the test set, giving "accuracy" and "loss"."""
        model = self._model()

        def evaluate_version(_: int, arrays: ArrayRecord) -> MetricRecord:
            model.load_state_dict(arrays.to_torch_state_dict())
            loss, accuracy = evaluate(model, self.test)
            return MetricRecord({"accuracy": accuracy, "loss": loss})

        return evaluate_version

    def _load(self, context: Context) -> LocalData:
        return self.clients[int(context.node_config["partition-id"])]

    def _model(self) -> torch.nn.Module:
        return mlp(_PIXELS, self.config.train.hidden, _CLASSES)


def _tensors(examples: Examples) -> Batch:
    return Batch(torch.from_numpy(examples.images.copy()), torch.from_numpy(examples.labels.copy()))
