"""An app written for FedAvg, run with the other strategies: only the class differs."""

from __future__ import annotations

import inspect
import logging
from collections import OrderedDict
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import nn

from fl_protocol.codes import ConfigInvalid
from fl_protocol.flower import require_supported
from fl_server.intake import plain
from fl_server.strategy import AsyncStrategy, AsyncWA, FedAsync, FedBuff
from fl_server.strategy.options import StrategyOptions
from strategies import Engine
from strategies.errors import BadOption, LeakyRecipe
from strategies.recipes import fedbuff
from strategies.roles import Roles
from strategies.selection import Uniform
from tests.support.federation import (
    CLASSES,
    INPUTS,
    accuracy_of,
    blobs,
    client_app,
    initial_arrays,
    virtual_grid,
)

app = ClientApp()


def load_model(message: Message) -> nn.Module:
    model = nn.Sequential(nn.Linear(INPUTS, CLASSES))
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return model


@app.train()
def train(message: Message, context: Context) -> Message:
    model, data = load_model(message), blobs(40, int(context.node_config["partition-id"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=message.content["config"]["lr"])
    loss = nn.functional.cross_entropy(model(data.inputs), data.labels)
    loss.backward()
    optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"train_loss": loss.item(), "num-examples": len(data)}),
        }
    )
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    model, data = load_model(message), blobs(40, 50 + int(context.node_config["partition-id"]))
    correct = (model(data.inputs).argmax(1) == data.labels).float().mean().item()
    metrics = MetricRecord({"eval_acc": correct, "num-examples": len(data)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)


@pytest.mark.parametrize("strategy_class", [FedAvg, AsyncWA, FedBuff, FedAsync])
def test_an_app_for_fedavg_runs_unchanged(strategy_class: type[Strategy]) -> None:
    torch.manual_seed(1)
    initial = ArrayRecord(nn.Sequential(nn.Linear(INPUTS, CLASSES)).state_dict())

    def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        def model() -> nn.Module:
            return nn.Sequential(nn.Linear(INPUTS, CLASSES))

        return MetricRecord({"accuracy": accuracy_of(arrays, model)})

    strategy = strategy_class(fraction_train=0.7, fraction_evaluate=0.5, min_available_nodes=2)
    result = strategy.start(
        grid=virtual_grid(app=app),
        initial_arrays=initial,
        train_config=ConfigRecord({"lr": 0.3}),
        num_rounds=30,
        evaluate_fn=global_evaluate,
    )
    accuracy = result.evaluate_metrics_serverapp
    assert accuracy[30]["accuracy"] > max(0.7, accuracy[0]["accuracy"])
    assert list(result.train_metrics_clientapp) == list(range(1, 31))
    assert "train_loss" in result.train_metrics_clientapp[1]
    assert "eval_acc" in result.evaluate_metrics_clientapp[30]
    assert isinstance(result.arrays.to_torch_state_dict(), OrderedDict)


def batch_norm_model() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, CLASSES))


@pytest.mark.parametrize("strategy_class", [AsyncWA, FedBuff, FedAsync])
def test_integer_counters_of_batch_norm_are_carried(strategy_class: type[AsyncStrategy]) -> None:
    grid = virtual_grid(app=client_app(model=batch_norm_model))
    initial = initial_arrays(batch_norm_model)
    result = strategy_class(fraction_evaluate=0.0).start(grid, initial, num_rounds=120)
    state = result.arrays.to_torch_state_dict()
    assert list(state) == list(batch_norm_model().state_dict())
    assert state["1.num_batches_tracked"].dtype == torch.int64
    assert state["1.num_batches_tracked"].item() == 0
    assert not torch.equal(state["1.running_mean"], torch.zeros(6))
    assert accuracy_of(result.arrays, batch_norm_model) > 0.7


def test_statistics_of_batch_norm_are_known_to_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = []

    def engine(*arguments: Any, **options: Any) -> Engine:
        engines.append(Engine(*arguments, **options))
        return engines[-1]

    monkeypatch.setattr(plain, "Engine", engine)
    grid = virtual_grid(app=client_app(model=batch_norm_model))
    AsyncWA(fraction_evaluate=0.0).start(grid, initial_arrays(batch_norm_model), num_rounds=1)

    first = 6 * INPUTS + 3 * 6
    means, variances = (first, first + 6), (first + 6, first + 12)
    assert [each.step.roles for each in engines] == [Roles((means,), (variances,))]


def test_all_parameters_of_fedavg_are_understood_with_the_same_defaults() -> None:
    theirs = inspect.signature(FedAvg.__init__).parameters
    ours = inspect.signature(AsyncStrategy.__init__).parameters
    assert set(theirs) <= set(ours)
    assert {n: ours[n].default for n in theirs} == {n: p.default for n, p in theirs.items()}


def test_the_shared_options_are_those_of_the_base_class() -> None:
    signature = inspect.signature(AsyncStrategy.__init__)
    shared = set(StrategyOptions.__annotations__)
    assert shared == set(signature.parameters) - {"self", "recipe"}


@pytest.mark.parametrize("strategy", [FedAsync, lambda **o: AsyncWA(disjoint=False, **o)])
def test_refuses_a_leaky_recipe_in_confidential_mode(strategy: type[AsyncStrategy]) -> None:
    with pytest.raises(LeakyRecipe) as caught:
        strategy(gateway="server.json")
    assert caught.value.code == "LEAKY_RECIPE"


def test_refuses_a_cache_on_disk_in_confidential_mode() -> None:
    with pytest.raises(BadOption, match="in the clear"):
        AsyncWA(gateway="server.json", cache="disk")


@pytest.mark.parametrize("options", [{"self_tuning": "no"}, {"server_lr": -1.0}])
def test_a_bad_option_is_refused_before_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        AsyncWA(**options)


def test_confidential_mode_fixes_the_recipe_before_nodes_are_known() -> None:
    for strategy in (AsyncWA(gateway="server.json"), FedBuff(gateway="server.json")):
        assert strategy.recipe(2).disjoint
        assert strategy.recipe(2) == strategy.recipe(1000)


def test_buffer_sizes_follow_the_tasks_in_flight_in_plain_mode() -> None:
    def sizes(strategy: AsyncStrategy) -> list[str]:
        return [strategy.recipe(n).options()["buffer_size"] for n in (1, 6, 60)]

    assert sizes(AsyncWA()) == ["1", "1", "10"]
    assert sizes(FedBuff()) == ["1", "3", "10"]
    assert sizes(FedBuff(buffer_size=7)) == ["7", "7", "7"]


@pytest.mark.parametrize(
    "options",
    [
        {"fraction_train": 0.0},
        {"fraction_train": float("nan")},
        {"fraction_train": 1.5},
        {"fraction_evaluate": -1.0},
        {"fraction_evaluate": float("nan")},
        {"fraction_evaluate": "all"},
        {"min_train_nodes": -1},
        {"min_evaluate_nodes": 0.5},
        {"min_available_nodes": -2},
        {"replies": "weight"},
        {"weighted_by_key": None},
        {"arrayrecord_key": 5},
        {"configrecord_key": None},
        {"arrayrecord_key": "config"},
        {"train_metrics_aggr_fn": "mean"},
        {"evaluate_metrics_aggr_fn": 1},
        {"limits": 5},
        {"release_rule": 5},
        {"cache_folder": 5},
        {"state_folder": ""},
        {"seed": None},
        {"selection": None},
        {"selection": Uniform},
        {"gateway": 5},
        {"gateway": ""},
        {"run_name": 5},
        {"callbacks": 5},
        {"callbacks": [5]},
    ],
)
def test_refuses_options_that_make_no_sense(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigInvalid, match=name):
        FedBuff(**options)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_rounds": -1},
        {"num_rounds": 2.5},
        {"num_rounds": float("nan")},
        {"num_rounds": "3"},
        {"timeout": 0},
        {"timeout": float("nan")},
        {"timeout": "60"},
        {"initial_arrays": [1.0]},
        {"train_config": {"lr": 0.1}},
        {"evaluate_config": {"lr": 0.1}},
        {"evaluate_fn": 5},
    ],
)
def test_refuses_runs_that_cannot_begin(arguments: dict[str, Any]) -> None:
    (name,) = arguments
    with pytest.raises(ConfigInvalid, match=name):
        FedBuff().start(virtual_grid(), **{"initial_arrays": initial_arrays(), **arguments})


@pytest.mark.parametrize("recipe", [fedbuff.FedBuff, "fedbuff", lambda in_flight: "fedbuff"])
def test_refuses_what_is_no_recipe(recipe: Any) -> None:
    with pytest.raises(ConfigInvalid, match="recipe must be a recipe"):
        AsyncStrategy(recipe)


def test_a_small_share_of_few_nodes_is_one_task() -> None:
    strategy = AsyncWA(fraction_train=0.01, min_train_nodes=0)
    assert [strategy.in_flight(nodes) for nodes in (0, 1, 10, 200)] == [0, 1, 1, 2]


@pytest.mark.parametrize("found", ["1.40.2", "1.42.0", "2.0.0", "1.410.0"])
def test_refuses_other_versions_of_flower(found: str) -> None:
    with pytest.raises(ConfigInvalid, match=found):
        require_supported(found)


def test_cannot_be_driven_in_rounds() -> None:
    with pytest.raises(ConfigInvalid, match=r"inside start\(\) only"):
        AsyncWA().aggregate_train(1, [])


def test_summary_names_recipe_options_and_keys(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="flwr"):
        FedBuff(buffer_size=7, weighted_by_key="weight").summary()
    for expected in ("fedbuff", "buffer_size: 7", "Weighted by: 'weight'", "plain arrays"):
        assert expected in caplog.text
