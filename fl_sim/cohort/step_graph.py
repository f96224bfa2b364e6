"""One step of SGD of a whole cohort, traced once into a graph of tensor operations.

``vmap`` and autograd find out anew at every step which operations they come down to, and for a
small model that costs more than the operations. So they are asked once, and the graph is run.
The gradient of a matrix of weights is mostly a product per client: with plain SGD it is added to
the weights while it is computed, instead of being written, read again and added, which halves the
time of a step at 50,000 parameters. Other optimisers are given the gradients.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from fl_client.optimiser import SGD, Descent
from fl_sim.cohort.losses import Loss

_aten = torch.ops.aten
_RESHAPES = (_aten.view.default, _aten._unsafe_view.default, _aten.expand.default)


class TracedStep:
    """One step on the mean loss of every client.

    Parameters
    ----------
    model : nn.Module
        A function of its parameters and its inputs alone.
    parameters : mapping of str to Tensor
        Each client's own, shape (slots, ...); every step changes them in place.
    examples : tuple of Tensor
        Inputs, labels and weights of the shapes that every step will have.
    loss : Loss
        What clients train on.
    optimiser : SGD
        How the parameters follow the gradients.

    Raises
    ------
    RuntimeError
        If ``vmap`` cannot run the model, as one whose course depends on values.
    """

    def __init__(
        self,
        model: nn.Module,
        parameters: Mapping[str, Tensor],
        examples: tuple[Tensor, Tensor, Tensor],
        loss: Loss,
        optimiser: SGD,
    ) -> None:
        wanted = {name for name, p in model.named_parameters() if p.requires_grad}
        chosen = [place for place, name in enumerate(parameters) if name in wanted]
        # Nothing is written yet; strides matter, because a graph holds for some of them only.
        sample = [p.detach().requires_grad_(name in wanted) for name, p in parameters.items()]
        traced = make_fx(_gradients(model, list(parameters), chosen, loss))(*sample, *examples)
        # Called with tensors only: nothing has to be unpacked.
        traced.graph.set_codegen(fx.graph.CodeGen())
        # Where memory is written to, nothing may be taken out or put off.
        pure = not any(_mutates(node) for node in traced.graph.nodes)
        if pure:
            _drop_idle(traced.graph)
        self._own = tuple(parameters.values())
        self._descent: Descent | None = None
        if optimiser.plain:
            _descend_within(traced.graph, len(self._own), chosen, optimiser.lr, pure)
        else:
            self._descent = Descent(optimiser, [self._own[place] for place in chosen])
        traced.recompile()
        self._run = traced.forward

    def begin(self) -> None:
        """Begin a task of every client, from the parameters as they are now."""
        if self._descent is not None:
            self._descent.begin()

    @torch.no_grad()
    def __call__(self, inputs: Tensor, labels: Tensor, weights: Tensor) -> None:
        """Change the parameters.

        Parameters
        ----------
        inputs : Tensor, shape (slots, width, ...)
            Examples.
        labels : Tensor, shape (slots, width, ...)
            Their labels.
        weights : Tensor of float32, shape (slots, width)
            Factors of their losses, whose sum is a client's mean.
        """
        gradients = self._run(*self._own, inputs, labels, weights)
        if self._descent is not None:
            self._descent.step(gradients)


def _gradients(
    model: nn.Module, names: list[str], chosen: list[int], loss: Loss
) -> Callable[..., list[Tensor | None]]:
    """Return what takes parameters, inputs, labels and weights to gradients of those chosen."""

    def gradients(*tensors: Tensor) -> list[Tensor | None]:
        entries = dict(zip(names, tensors[: len(names)], strict=True))
        inputs, labels, weights = tensors[len(names) :]
        outputs = vmap(lambda own, seen: functional_call(model, own, (seen,)))(entries, inputs)
        losses = loss(outputs.flatten(0, 1), labels.flatten(0, 1))
        # No client's loss depends on another's parameters: the gradient of the sum is each's own.
        asked = [tensors[place] for place in chosen]
        found = torch.autograd.grad(losses, asked, weights.reshape(-1), allow_unused=True)
        return list(found)

    return gradients


def _descend_within(
    graph: fx.Graph, count: int, chosen: Sequence[int], lr: float, pure: bool
) -> None:
    """Turn a graph that returns the gradients of chosen inputs into one that changes these.

    Parameters
    ----------
    graph : Graph
        Its first `count` inputs are the parameters.
    count : int
        Number of parameters.
    chosen : sequence of int
        Which of them the gradients belong to.
    lr : float
        Learning rate.
    pure : bool
        Whether the graph writes to no memory.
    """
    own = list(graph.nodes)[:count]
    end = graph.output_node()
    found = end.args[0]
    assert isinstance(found, Sequence)
    with graph.inserting_before(end):
        for place, gradient in zip(chosen, found, strict=True):
            if not isinstance(gradient, fx.Node):
                continue
            factors = _factors(graph, gradient) if pure else ()
            # A product of parameters cannot wait until they have changed.
            if factors and not {_origin(factor) for factor in factors} & set(own):
                change, terms = _aten.baddbmm_.default, factors
            else:
                change, terms = _aten.add_.Tensor, (gradient,)
            graph.call_function(change, (own[place], *terms), {"alpha": -lr})
    end.args = (None,)
    graph.eliminate_dead_code()


def _drop_idle(graph: fx.Graph) -> None:
    """Take out what leaves a tensor as it is; each costs a call at every step."""
    for node in list(graph.nodes):
        same = node.target is _aten.detach.default
        if node.target in _RESHAPES or (node.target is _aten.mul.Scalar and node.args[1] == 1):
            same = _form(node) == _form(node.args[0])
        if same:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)


def _factors(graph: fx.Graph, gradient: fx.Node) -> tuple[fx.Node, ...]:
    """Return the stacks of matrices whose product a gradient is; none if it is no product."""
    turned = _swaps_matrix(gradient)
    product = gradient.args[0] if turned else gradient
    if not isinstance(product, fx.Node) or product.target is not _aten.bmm.default:
        return ()
    left, right = product.args
    assert isinstance(left, fx.Node) and isinstance(right, fx.Node)
    if not turned:
        return left, right
    return tuple(graph.call_function(_aten.transpose.int, (m, 1, 2)) for m in (right, left))


def _swaps_matrix(node: fx.Node) -> bool:
    """Tell if a node transposes each matrix of a stack."""
    if node.target is not _aten.transpose.int or len(_form(node)[0]) != 3:
        return False
    return {axis % 3 for axis in node.args[1:] if isinstance(axis, int)} == {1, 2}


def _origin(node: fx.Node) -> fx.Node:
    """Return the node whose memory a node shows."""
    while _shows(node):
        source = node.args[0]
        assert isinstance(source, fx.Node)
        node = source
    return node


def _shows(node: fx.Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(r.alias_info is not None for r in schema.returns)


def _mutates(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _form(node: fx.Node) -> tuple[torch.Size, torch.dtype]:
    value = node.meta["val"]
    return value.shape, value.dtype
