"""Recipes by name, with options from a configuration file."""

import subprocess
import sys
from dataclasses import dataclass

import pytest

from strategies import AsyncWA, BadOption, FedAsync, FedBuff, UnknownRecipe, recipe_from
from strategies.catalog import RECIPES
from strategies.options import build
from tests.strategies.helpers import EVERY_RECIPE


@pytest.mark.parametrize("recipe", EVERY_RECIPE, ids=repr)
def test_options_are_strings_that_build_the_same_recipe(recipe):
    options = recipe.options()

    assert all(type(value) is str for value in options.values())
    assert recipe_from(recipe.name, **options) == recipe


def test_equal_recipes_have_equal_options():
    assert FedBuff(server_lr=2).options() == FedBuff(server_lr=2.0).options()


def test_defaults_and_native_values():
    assert recipe_from("async-wa") == AsyncWA()
    assert recipe_from("fedasync", mixing="0.9", staleness="hinge") == FedAsync(0.9, "hinge")
    assert recipe_from("fedbuff", buffer_size=4, max_wait=None) == FedBuff(4)
    assert recipe_from("async-wa", disjoint="true").disjoint is True


def test_only_disjoint_recipes_say_so():
    assert [FedBuff().disjoint, AsyncWA(disjoint=True).disjoint] == [True, True]
    assert [FedAsync().disjoint, AsyncWA().disjoint] == [False, False]
    assert {name for name in RECIPES if recipe_from(name).disjoint} == {
        "ca2fl",
        "fadas",
        "fedavg",
        "fedbuff",
        "fedstaleweight",
    }


def test_every_kebab_case_name_is_in_the_catalogue():
    assert sorted(RECIPES) == [
        "ace",
        "aced",
        "area",
        "async-wa",
        "asyncfeded",
        "ca2fl",
        "dc-asgd",
        "fadas",
        "fedasync",
        "fedavg",
        "fedbuff",
        "fedstaleweight",
        "ringleader",
        "ringmaster",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_defaults(name):
    assert recipe_from(name).name == name


def test_unknown_recipe_names_the_known_ones():
    with pytest.raises(UnknownRecipe, match=r"ace, aced, area, async-wa"):
        recipe_from("fedavgm")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("fedbuff", {"window": 3}),
        ("fedbuff", {"buffer_size": 0}),
        ("fedbuff", {"buffer_size": "ten"}),
        ("fedbuff", {"buffer_size": 2.5}),
        ("fedbuff", {"buffer_size": True}),
        ("fedbuff", {"buffer_size": "9" * 5000}),
        ("fedbuff", {"buffer_size": None}),
        ("fedbuff", {"server_lr": "nan"}),
        ("fedbuff", {"server_lr": 0}),
        ("fedbuff", {"server_lr": 10**400}),
        ("fedbuff", {"server_lr": True}),
        ("fedbuff", {"server_momentum": 1.0}),
        ("fedbuff", {"normalise": "clients"}),
        ("fedbuff", {"normalise": 3}),
        ("fedbuff", {"staleness_exponent": -1}),
        ("fedbuff", {"max_wait": 0}),
        ("fedbuff", {"published_rounds": -1}),
        ("fedasync", {"mixing": 0}),
        ("fedasync", {"mixing": 1.5}),
        ("fedasync", {"staleness": "linear"}),
        ("fedasync", {"hinge_slope": -1}),
        ("async-wa", {"disjoint": "yes"}),
        ("async-wa", {"disjoint": 1}),
        ("async-wa", {"num_clients": 0}),
        ("async-wa", {"max_clients": 0}),
        ("async-wa", {"max_age": 0}),
        ("async-wa", {"volume_exponent": 2}),
        ("async-wa", {"max_wait": 5.0}),
        ("fedavg", {"over_selection": -0.1}),
        ("fedavg", {"buffer_size": 0}),
        ("fadas", {"beta1": 1.0}),
        ("fadas", {"epsilon": 0}),
        ("fadas", {"epsilon": 1e-50}),
        ("async-wa", {"server_lr": 1e-40}),
        ("async-wa", {"num_clients": 10**400}),
        ("fadas", {"delay_threshold": 0}),
        ("fadas", {"server_lr": 0}),
        ("fadas", {"delay_rule": "root"}),
        ("ca2fl", {"max_clients": 0}),
        ("ace", {"max_age": 0}),
        ("aced", {"max_delay": 0}),
        ("area", {"volume_exponent": 2}),
        ("dc-asgd", {"strength": -1}),
        ("dc-asgd", {"decay": 1.0}),
        ("dc-asgd", {"adaptive": 1}),
        ("ringmaster", {"max_delay": 0}),
        ("ringleader", {"max_age": 0}),
        ("asyncfeded", {"offset": 0}),
        ("fedstaleweight", {"buffer_size": 0}),
    ],
)
def test_bad_option_is_refused(name, options):
    with pytest.raises(BadOption):
        recipe_from(name, **options)


def test_a_rule_whose_option_has_no_default_asks_for_it():
    @dataclass(frozen=True)
    class Own:
        alpha: float

    with pytest.raises(BadOption, match="own has no default for alpha"):
        build("own", Own, {})
    assert build("own", Own, {"alpha": 2}).alpha == 2.0


def test_importing_the_package_costs_numpy_only():
    script = (
        "import sys, numpy; before = set(sys.modules); import strategies;"
        "new = {name.split('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(new - sys.stdlib_module_names - {'strategies', 'numpy'}))"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"


def test_recipe_by_name_loads_neither_flower_nor_torch():
    script = (
        "import sys, asynclave; asynclave.recipe_from('ca2fl');"
        "print([name for name in ('flwr', 'torch', 'grpc') if name in sys.modules])"
    )

    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"
