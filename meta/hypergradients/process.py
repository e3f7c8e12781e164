"""Pure processes: what can be differentiated. A training run is one, and so is anything else that steps without memory.

    x_{t+1} = step(x_t, a_t, t)        J = objective(x_T)

A process linearises its step at a state: `linearize` gives the next state and the adjoint of the step there, a
function that takes dJ/dx_{t+1} to (dJ/dx_t, dJ/da_t). For an arbitrary `step`, autograd does that;
`meta.hypergradients.gradient_process` has processes whose structure is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from meta.hypergradients.forward_mode import dual, in_forward_mode, tangent_of
from meta.hypergradients.memory import Arena, ReusedMemory
from teachenv import checks
from teachenv.students.batch_norm import batch_normalized
from teachenv.students.kernels import embedding_bag, weight_norm
from teachenv.trees import ARRAYS, mapped, places_of, tensors_of, versions_of, with_tensors

if TYPE_CHECKING:
    from meta.hypergradients.reversal import Reversal

Adjoint = Callable[[Any], tuple[Any, torch.Tensor]]
"""Takes the cotangent of the state after a step to (cotangent of the state before it, of the action)."""


class PureProcess(Protocol):
    """What `meta.hypergradient` differentiates at the least: your own two functions, in a class or a namespace."""

    step: Callable[[Any, torch.Tensor, int], Any]
    """(state, action, t) to the next state: nested dictionaries, tuples and dataclasses of tensors."""
    objective: Callable[[Any], torch.Tensor]
    """The final state to J, a scalar."""


class Process:
    """A process that autograd linearises.

    Args:
        step: (state, action, t) to the next state, as in `PureProcess`. It must be a function of its arguments alone: a
            step is taken again when it is differentiated; it leaves them as they are. If it takes gradients itself,
            then with `create_graph=True`.
        objective: the final state to J, a scalar.
    """

    hessian_vector_products = 0
    """Double backward passes in an adjoint."""
    gradient_evaluations = 0
    """Gradients of a loss in a step, as far as the process knows."""
    replays_exactly = False
    """Whether it is known that a step taken again gives the same."""
    compares_every_step = True
    """Whether each step that is taken again is compared with the first time: the adjoint gives what it led to."""

    def __init__(self, step: Callable[[Any, torch.Tensor, int], Any], objective: Callable[[Any], torch.Tensor]) -> None:
        """Keeps the two functions; nothing is computed yet."""
        self._step, self._objective = step, objective
        self._normalizations = Normalizations()

    def batch(self, state: Any) -> tuple[int, ...]:
        """Returns the shape in which independent processes are stacked in a state: (B,), or () for one."""
        return ()

    def check_state(self, state: Any) -> None:
        """Refuses an initial state that the process cannot step from.

        Raises:
            TypeError: it has no tensors, arrays of NumPy, or complex tensors.
        """
        places = places_of(state, "state", of=ARRAYS)
        if not places:
            raise TypeError(f"found {checks.shown(state)} as the state, expected tensors in it; torch.tensor makes one")
        for place, leaf in places.items():
            if not isinstance(leaf, torch.Tensor):
                raise TypeError(f"found a NumPy array at {place}, expected a tensor; torch.from_numpy makes one of it")
        _check_real(state)

    def check_differences(self, state: Any) -> None:
        """Refuses a state at which `pullback_by_differences` has no radius, if the process knows of one.

        Raises:
            ValueError: its parameters have another type.
        """

    def check_actions(self, state: Any, actions: Iterable[torch.Tensor]) -> None:
        """Refuses actions that the process's step does not take, if it knows which it takes."""

    def singles(self, state: Any) -> Sequence[tuple[Process, Any]]:
        """Returns (process, state) of each process stacked in a state, if taking them together gains nothing."""
        return []

    def needed(self, state: Any) -> Any:
        """Returns what of a state `pullback` reads: all that has to be kept of it."""
        return state

    def irreversible(self, state: Any) -> str | None:
        """Returns why steps from a state cannot be taken backwards; None if they can, and there is `reversal`."""
        return "an arbitrary step(state, action, t) does not say what its optimiser is, as meta.Descent does"

    def coded_bytes(self, state: Any) -> int:
        """Returns about how many bytes take the state before a step from the one after it."""
        raise TypeError(f"{self.irreversible(state)}: ask irreversible(state) first")

    def reversal(self, state: Any, first: int, graphs: bool) -> Reversal:
        """Returns steps from a state on, to be taken forwards and then backwards; see `Reversal`."""
        raise TypeError(f"{self.irreversible(state)}: ask irreversible(state) first")

    def finished(self, cotangent: Any) -> Any:
        """Returns the cotangent of the initial state in the form that the caller gets."""
        return cotangent

    def step(self, state: Any, action: torch.Tensor, t: int, arena: Arena | None = None) -> Any:
        """Computes the next state, without a graph; in the arena, as far as it can be written there at once."""
        after = self._stepped(mapped(torch.Tensor.detach, state), action.detach(), t)
        return mapped(torch.Tensor.detach, after)

    def value(self, state: Any) -> tuple[torch.Tensor, Any]:
        """Returns (J, its gradient with respect to the final state): a structure as `Hypergradient.initial` is.

        Raises:
            ValueError: J is no scalar, or the objective writes into the state.
        """
        leaves = _floating_leaves(state)
        final = with_tensors(state, leaves)
        with torch.enable_grad():
            with _unwritten("objective(state)", state=final):
                objective: Any = self._objective(final)
            if not isinstance(objective, torch.Tensor) or objective.numel() != math.prod(self.batch(state)):
                given = f"shape {tuple(objective.shape)}" if hasattr(objective, "shape") else checks.shown(objective)
                raise ValueError(f"found {given} from objective(state), expected a scalar; take its .mean() or .sum()")
            differentiable = [leaf for leaf in leaves if leaf.requires_grad]
            if objective.requires_grad:
                grads = torch.autograd.grad(objective.sum(), differentiable, materialize_grads=True)
            else:
                grads = tuple(torch.zeros_like(leaf) for leaf in differentiable)
        return objective.detach(), _in_place_of_floating(final, grads)

    def linearize(
        self, state: Any, action: torch.Tensor, t: int, memory: ReusedMemory | None = None
    ) -> tuple[Any, Adjoint]:
        """Returns (next state, adjoint of the step); the adjoint keeps the step's graph and can be called once.

        As far as the adjoint does not hold the next state, that may be written to `memory`.
        """
        leaves, leaf_action = _floating_leaves(state), action.detach().requires_grad_()
        before = with_tensors(state, leaves)
        with torch.enable_grad(), self._normalizations.exchanged():
            after = self._stepped(before, leaf_action, t)
        outputs = [tensor for tensor in tensors_of(after) if tensor.is_floating_point()]

        def adjoint(cotangent: Any) -> tuple[Any, torch.Tensor]:
            of_outputs = tensors_of(cotangent)
            depending = [i for i, output in enumerate(outputs) if output.requires_grad]
            differentiable = [leaf for leaf in leaves if leaf.requires_grad]
            with explained(_OTHERWISE):
                grads = torch.autograd.grad(
                    [outputs[i] for i in depending],
                    [*differentiable, leaf_action],
                    [of_outputs[i] for i in depending],
                    materialize_grads=True,
                )
            return _in_place_of_floating(before, grads[:-1]), grads[-1]

        return mapped(torch.Tensor.detach, after), adjoint

    def pullback(self, state: Any, action: torch.Tensor, t: int, cotangent: Any) -> tuple[Any, torch.Tensor]:
        """Applies the adjoint of the step at a state, at once."""
        return self.linearize(state, action, t)[1](cotangent)

    def pullback_by_differences(
        self, state: Any, action: torch.Tensor, t: int, cotangent: Any
    ) -> tuple[Any, torch.Tensor]:
        """Applies the adjoint by central differences, for which the gradient within the step has to be known.

        Raises:
            TypeError: this process is an arbitrary step.
        """
        raise TypeError(
            'method="finite-difference" differentiates the gradient within a step, and an arbitrary step(state, '
            'action, t) does not say which that is; describe it as meta.Descent(loss, objective), or use "rmd"'
        )

    def pushforward(self, state: Any, action: torch.Tensor, t: int, tangent: Any, of_action: torch.Tensor) -> Any:
        """Computes the tangent of the next state, by forward mode.

        Args:
            state: the state before the step, at which it is linearised.
            action: the action of the step.
            t: the number of the step.
            tangent: the tangent of the state, in the form of a cotangent.
            of_action: the tangent of the action, of its shape.
        """

        def pushed() -> list[torch.Tensor]:
            tangents = iter(tensors_of(tangent))
            duals = [
                dual(leaf.detach(), next(tangents)) if leaf.is_floating_point() else leaf for leaf in tensors_of(state)
            ]
            after = self._step(with_tensors(state, duals), dual(action.detach(), of_action), t)
            return [tangent_of(tensor) for tensor in tensors_of(after) if tensor.is_floating_point()]

        return in_forward_mode(pushed)

    def _stepped(self, state: Any, action: torch.Tensor, t: int) -> Any:
        """Returns the next state, unless its gradient would be wrong."""
        with _unwritten(f"step(state, action, {t})", state=state, action=action):
            after = self._step(state, action, t)
        _check_real(after)
        return after


def as_process(process: Process | PureProcess) -> Process:
    """Returns the process itself, or makes one of an object's `step` and `objective`.

    Raises:
        TypeError: it has no `step` and `objective`.
    """
    if isinstance(process, Process):
        return process
    step, objective = getattr(process, "step", None), getattr(process, "objective", None)
    if not (callable(step) and callable(objective)):
        raise TypeError(
            f"a process has step(state, action, t) and objective(state), found {type(process).__name__} without them; "
            "make one with meta.Process(step, objective)"
        )
    return Process(step, objective)


def _floating_leaves(state: Any) -> list[torch.Tensor]:
    return [t.detach().requires_grad_(t.is_floating_point()) for t in tensors_of(state)]


def _in_place_of_floating(state: Any, tensors: Iterable[torch.Tensor]) -> Any:
    """Returns a state with other tensors in the places of its floating-point ones, and None in those of the others."""
    rest = iter(tensors)
    return mapped(lambda tensor: next(rest) if tensor.is_floating_point() else None, state)


def _check_real(state: Any) -> None:
    if any(tensor.is_complex() for tensor in tensors_of(state)):
        place = next(place for place, tensor in places_of(state, "state").items() if tensor.is_complex())
        raise TypeError(
            f"found a complex tensor at {place}, expected real ones; keep its real and imaginary part "
            "(torch.view_as_real), and make it of them within the step (torch.view_as_complex)"
        )


@contextmanager
def _unwritten(call: str, **arguments: Any) -> Iterator[None]:
    """Refuses what is called inside the block if it writes into its arguments.

    Raises:
        ValueError: it does.
    """
    before = versions_of(arguments)
    advice = "expected new tensors and these as they are; write into a copy (.clone())"
    try:
        yield
    except RuntimeError as error:
        if "leaf Variable that requires grad" in str(error):
            raise ValueError(f"{call} writes in place into what it is given, {advice}") from error
        raise
    if before != (after := versions_of(arguments)):
        places = [place for name, tree in arguments.items() for place in places_of(tree, name)]
        written = next(place for place, old, new in zip(places, before, after, strict=True) if old != new)
        raise ValueError(f"{call} writes in place into {written}, {advice}")


def double_backward_kernels() -> AbstractContextManager[None]:
    """Chooses attention's math kernel: the fused ones cannot be differentiated twice.

    Entered once for a whole sweep: it costs as much as a small student's forward pass.
    """
    return sdpa_kernel(SDPBackend.MATH)


class Normalizations:
    """Chooses normalisations for a second derivative in steps of a user's own, where there are any."""

    def __init__(self) -> None:
        """Begins without knowing whether the step has normalisations."""
        self._used: bool | None = None

    @contextmanager
    def exchanged(self) -> Iterator[None]:
        """Exchanges normalisations inside the block, by a look at every call; no more once a block had none of them."""
        if self._used is False:
            yield
            return
        with _Exchanging() as mode:
            yield
        self._used = mode.used


class _Exchanging(TorchFunctionMode):
    """Exchanges what modules of a step call: batch norm's second derivative is slow, weight norm's is wrong.

    As in a student (`teachenv.students.kernels`), but that running statistics, which are no part of the process's
    state, are updated in place without a derivative.

    Attributes:
        used: True once a step has called one of these normalisations.
    """

    used = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = _REPLACED.get(func)
        self.used |= replacement is not None
        return (replacement or func)(*args, **(kwargs or {}))


def _batch_norm(
    input: torch.Tensor,
    running_mean: torch.Tensor | None,
    running_var: torch.Tensor | None,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Computes what `F.batch_norm` does, with a second derivative that is fast."""
    if training and (weight is None or weight.dtype == input.dtype):
        return batch_normalized(input, weight, bias, eps, running_mean, running_var, momentum)
    return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


_REPLACED: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    F.embedding_bag: embedding_bag,
    torch._weight_norm: weight_norm,
}


_OTHERWISE = (
    "replace the operation by one that PyTorch can differentiate twice, or describe the step as meta.Descent(loss, "
    'objective), for which there is method="finite-difference"'
)
"""Advice for an arbitrary step, of which there are no differences."""


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Turns PyTorch's refusal to differentiate a kernel twice into advice.

    Args:
        advice: what the user may do, as the end of a sentence.
    """
    try:
        yield
    except RuntimeError as error:
        message = str(error)
        if any(sign in message for sign in ("derivative for", "not implemented", "differentiate twice")):
            raise RuntimeError(
                f"the step has an operation that cannot be differentiated twice ({message.splitlines()[0]}); {advice}"
            ) from error
        raise
