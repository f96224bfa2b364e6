"""The model between two worlds: flat vectors for the engine, named arrays for Flower."""

from __future__ import annotations

from flwr.app import Array, ArrayRecord

from fl_server.intake.base import Intake, Publishing
from fl_server.intake.plain import arrays_of
from strategies.layout import Layout
from strategies.update import Vector, frozen


class Model:
    """The current version of the model.

    Parameters
    ----------
    initial : ArrayRecord
        The initial model. Its integer arrays, such as BatchNorm counters, are carried
        unchanged through the whole run.

    Attributes
    ----------
    layout : Layout
        Names, shapes and dtypes.
    carried : dict of str to ndarray
        Its integer arrays.
    params : ndarray of float32, shape (P,)
        What clients train from.
    current : ArrayRecord
        `params` as named arrays.
    published : ArrayRecord
        What is evaluated and handed to the user: the recipe's running mean if it has one,
        else `current`.
    """

    def __init__(self, initial: ArrayRecord) -> None:
        arrays = arrays_of(initial)
        self.layout = Layout.of(arrays)
        self.carried = self.layout.carried(arrays)
        self.params = frozen(self.layout.flatten(arrays))
        self.current = self.published = initial

    def adopt(self, params: Vector, intake: Intake) -> None:
        """Take over the parameters of a version, shape (P,), from an intake."""
        self.params = params
        self.current = self.published = self._record(params)
        if isinstance(intake, Publishing) and intake.published is not params:
            self.published = self._record(intake.published)

    def _record(self, params: Vector) -> ArrayRecord:
        arrays = self.layout.unflatten(params, self.carried)
        return ArrayRecord({name: Array(array) for name, array in arrays.items()})
