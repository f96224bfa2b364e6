"""Federated data for simulations: one module per data set, one for partitioning.

`load` gives any of them by name; ``docs/data.md`` lists sources, licences and sizes.
"""

from fl_sim.data.examples import Examples, FederatedData, Source
from fl_sim.data.federation import DATA_SETS, DataSet, Partition, federated_mnist, load
from fl_sim.data.mnist import mnist_5k
from fl_sim.data.partition import (
    dirichlet_partition,
    iid_partition,
    natural_partition,
    stratified_split,
    thin_out,
)

__all__ = [
    "DATA_SETS",
    "DataSet",
    "Examples",
    "FederatedData",
    "Partition",
    "Source",
    "dirichlet_partition",
    "federated_mnist",
    "iid_partition",
    "load",
    "mnist_5k",
    "natural_partition",
    "stratified_split",
    "thin_out",
]
