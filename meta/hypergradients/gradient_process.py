"""A process whose step is an optimiser's, and its adjoint.

The optimiser's part of the adjoint is written by hand (`teachenv.optimizers`), so that no graph is kept of the update,
and only products with the Hessian and the mixed derivative of the loss are left. For cotangents dω', dv', db' of
parameters, optimiser slots and running statistics after the step, and g = ∇_ω L(ω, a):

    dg, dω, dv = optimiser's reverse rule of (dω', dv')
    dω += (∂g/∂ω)ᵀ dg + (∂b'/∂ω)ᵀ db'        da = (∂g/∂a)ᵀ dg        db = (∂b'/∂b)ᵀ db'

For plain SGD without running statistics these are L2T-DLF's eqs. 4-5 (its dω there is the same for both lines: the
cotangent before the step is undone); with momentum the paper's form is wrong. The two products with dg can also be had
without double backward, by central differences of the gradient along dg.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from meta.hypergradients.cotangent import Cotangent, Reversed
from meta.hypergradients.forward_mode import dual, in_forward_mode, tangent_of
from meta.hypergradients.memory import Arena, ReusedMemory
from meta.hypergradients.process import Adjoint, Process, explained
from meta.hypergradients.reversal import Reversal
from teachenv.optimizers import Optimizer, Places, Rate, Tensors, slots_of
from teachenv.optimizers.base import in_order
from teachenv.state import Gradient, Outcome, Pullback, StudentState
from teachenv.students.stopped_gradients import opened
from teachenv.trees import leaves
from teachenv.update import Adjoint as AdjointOfGradient
from teachenv.update import Update

_BY_DIFFERENCES = 'use method="finite-difference", which needs no double backward'
"""Advice for an operation that cannot be differentiated twice."""

RADIUS = {torch.float32: 1e-2, torch.float64: 3e-8}
"""How far central differences move the parameters, by their dtype; see `meta.hypergradient`."""


def needed_if(reads: bool, state: StudentState) -> StudentState:
    """Returns what is kept of a state: all if reversing a step reads gradient and slots, else no slots."""
    return state if reads else replace(state, slots={})


class GradientProcess(Process):
    """A process whose step is an `Update`; see the module. The state knows its step, so that t is not read.

    Args:
        update: the step and its gradient.
        objective: the final state to J.
        statistics: names of the buffers that J can depend on.
        stops_gradients: whether the step's own gradient leaves out a dependence that the step has.
    """

    hessian_vector_products = 1
    gradient_evaluations = 1
    compares_every_step = False

    def __init__(
        self,
        update: Update,
        objective: Callable[[StudentState], torch.Tensor],
        statistics: Sequence[str] = (),
        *,
        stops_gradients: bool = False,
    ) -> None:
        """Keeps the update, its optimiser and the objective; nothing is computed yet."""
        self.update, self.optimizer = update, update.optimizer
        # The derivative with respect to the optimiser's settings reads the gradient, as some rules of optimisers do.
        self._reads = update.optimizer.needs_gradient or update.adjusts
        self._objective, self._statistics = objective, statistics
        self.stops_gradients = stops_gradients

    def batch(self, state: StudentState) -> tuple[int, ...]:
        """Returns the shape in which students are stacked: (B,) for a batch, () for a single one."""
        return () if isinstance(state.step, int) else state.step.shape

    def check_state(self, state: StudentState) -> None:
        """Refuses what is no state of an optimiser.

        Raises:
            TypeError: the state is no `StudentState`.
        """
        if not isinstance(state, StudentState):
            raise TypeError(
                f"found a {type(state).__name__} as the state, expected a StudentState; meta.Descent(...).begin"
                "(parameters) makes one, and an environment has it as env.unwrapped.student"
            )

    def check_differences(self, state: StudentState) -> None:
        """Refuses parameters that central differences have no radius for.

        Raises:
            ValueError: they are of another type than float32 or float64, or of both.
        """
        types = {state.parameters[name].dtype for name in self.update.moved(state.parameters)}
        if not self.stops_gradients and (len(types) > 1 or not types <= RADIUS.keys()):
            names = " and ".join(sorted(map(str, types)))
            raise ValueError(
                f"found parameters of {names}, expected torch.float32 or torch.float64 alone: "
                'method="finite-difference" has no radius for others; take method="rmd"'
            )

    def needed(self, state: StudentState) -> StudentState:
        """Returns what `pullback` reads of a state: no slots, if the optimiser's reverse rule does not read them."""
        return needed_if(self._reads, state)

    def finished(self, cotangent: Cotangent) -> Cotangent:
        """Multiplies the factor into the cotangents of the optimiser's slots."""
        return replace(cotangent, carried=cotangent.slots, factor=1.0)

    def step(self, state: StudentState, action: torch.Tensor, t: int, arena: Arena | None = None) -> StudentState:
        """Takes one step of the optimiser; new parameters go to the arena, if there is one."""
        places = None if arena is None else arena.place(state.parameters)
        return self.update.step(state, action, None if places is None else Places(places, {}))[0]

    def value(self, state: StudentState) -> tuple[torch.Tensor, Cotangent]:
        """Returns (J, ∂J/∂x_T) at the final state x_T; slots do not reach J, and have zeros.

        Raises:
            ValueError: J has no derivative with respect to the parameters.
        """
        parameters = leaves(state.parameters)
        statistics = leaves({name: state.buffers[name] for name in self._statistics})
        with torch.enable_grad():
            value = self._objective(replace(state, parameters=parameters, buffers=state.buffers | statistics))
            if not value.requires_grad:
                raise ValueError(
                    "the objective has no derivative with respect to the student's parameters, expected a smooth "
                    "function of its outputs; compute it without argmax, .item() and .detach(), or take a teacher that "
                    "uses no gradients"
                )
            with opened():  # J depends on what a network's own gradients stop at, too
                grads = torch.autograd.grad(
                    value.sum(), [*parameters.values(), *statistics.values()], materialize_grads=True
                )
        of_parameters = dict(zip(parameters, grads, strict=False))
        of_statistics = dict(zip(statistics, grads[len(parameters) :], strict=True))
        return value.detach(), Cotangent(
            of_parameters, {n: torch.zeros_like(s) for n, s in state.slots.items()}, of_statistics
        )

    def linearize(
        self, state: StudentState, action: torch.Tensor, t: int, memory: ReusedMemory | None = None
    ) -> tuple[StudentState, Adjoint]:
        """Returns (next state, adjoint of the step); the graph kept is that of the gradient, not of the update."""
        return self.linearized(state, action, memory)[:2]

    def linearized(
        self, state: StudentState, action: torch.Tensor, memory: ReusedMemory | None = None
    ) -> tuple[StudentState, Adjoint, Outcome]:
        """Returns (next state, adjoint of the step, what the step reports)."""
        gradient, of_gradient = self.update.linearize(state, action)
        adjoint = self.adjoint_at(state, action, gradient, of_gradient)
        # An adjoint that reads the whole state holds it.
        places = None if memory is None or self._reads else memory.place((state.parameters, state.slots))
        out = None if places is None else Places(*places)
        return self.update.apply(state, action, gradient, out), adjoint, gradient.outcome

    def adjoint_at(
        self, state: StudentState, action: torch.Tensor, gradient: Gradient, of_gradient: AdjointOfGradient
    ) -> Adjoint:
        """Returns the adjoint of a step, given the gradient in it and the adjoint of that."""
        # What the adjoint holds on to is held for every step at once under memory="all".
        reads = self._reads
        read_by_rule = state if reads else replace(state, parameters={}, slots={}, buffers={})
        values = gradient.parameters if reads else None

        def adjoint(cotangent: Cotangent) -> tuple[Cotangent, torch.Tensor]:
            back = self._reversed(read_by_rule, action, cotangent, values)
            with explained(_BY_DIFFERENCES):
                through = of_gradient(back.direction, back.before(cotangent.buffers))
            return self._joined(read_by_rule, action, back, through)

        return adjoint

    def irreversible(self, state: StudentState) -> str | None:
        """Returns why a step cannot be taken backwards; None if it can, as with momentum and Adam."""
        if len(self.update.moved(state.parameters)) < len(state.parameters):
            return "a step moves some of the parameters only"
        if len({p.dtype for p in state.parameters.values()}) > 1:
            return "the parameters are of several types"
        return self.optimizer.irreversible()

    def coded_bytes(self, state: StudentState) -> int:
        """Returns about how many bytes take the state before a step from the one after it."""
        return int(self.optimizer.correction_bits(self._reads) / 8 * sum(p.numel() for p in state.parameters.values()))

    def reversal(self, state: StudentState, first: int, graphs: bool) -> Reversal:
        """Returns steps from a state on, to be taken forwards and then backwards; see `Reversal`."""
        return Reversal(self.update, self.adjoint_at, state, first, with_slots=self._reads, graphs=graphs)

    def pullback(
        self, state: StudentState, action: torch.Tensor, t: int, cotangent: Cotangent
    ) -> tuple[Cotangent, torch.Tensor]:
        """Applies the adjoint at once, without keeping it: a batch of students has a recording of that."""
        if self._reads:
            return self.linearize(state, action, t)[1](cotangent)
        back = self._reversed(state, action, cotangent, None)
        with explained(_BY_DIFFERENCES):
            statistics = back.before(cotangent.buffers)
            through = self.update.pullback(state, action, back.direction, statistics)
        return self._joined(state, action, back, through)

    def pullback_by_differences(
        self, state: StudentState, action: torch.Tensor, t: int, cotangent: Cotangent
    ) -> tuple[Cotangent, torch.Tensor]:
        """Applies the adjoint by central differences of the gradient at ω ± ε dg; statistics by a backward pass.

        The gradient g(ω, b) is ∂L/∂ω, and its Jacobian therefore symmetric: (∂g/∂ω)ᵀ dg is the difference of g along
        dg, and (∂g/∂b)ᵀ dg that of ∂L/∂b. Where the step's own gradient stops at something that depends on ω
        (`torch.no_grad`, `detach`) it is not, and the adjoint is taken exactly instead.
        """
        if self.stops_gradients:
            return self.pullback(state, action, t, cotangent)
        gradient = self.update.gradient(state, action).parameters if self._reads else None
        back = self._reversed(state, action, cotangent, gradient)
        d_gradient = back.direction
        with torch.no_grad():
            size = self.batch(state)
            norm = torch.stack([d.reshape(*size, -1).square().sum(-1) for d in d_gradient.values()]).sum(0).sqrt()
            epsilon = RADIUS[norm.dtype] / norm.clamp(min=torch.finfo(norm.dtype).tiny ** 0.5)

        def scaled(factor: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
            return factor.view([*size, *[1] * (tensor.dim() - len(size))])

        def along(sign: float) -> Gradient:
            moved = {n: state.parameters[n].addcmul(d, scaled(sign * epsilon, d)) for n, d in d_gradient.items()}
            displaced = replace(state, parameters=state.parameters | moved)
            # ∇ of everything, since what moved one network depends on where the other one is.
            return self.update.gradient(displaced, action, with_action=True, of_all=True)

        plus, minus = along(1.0), along(-1.0)
        assert plus.action is not None
        assert minus.action is not None
        products = {n: (g - minus.parameters[n]).div_(scaled(2 * epsilon, g)) for n, g in plus.parameters.items()}
        of_action = (plus.action - minus.action) / scaled(2 * epsilon, plus.action)
        through = Pullback(products, {}, of_action)
        if cotangent.buffers:
            of_new = self.update.pullback(state, action, None, back.before(cotangent.buffers))
            products = {n: p + of_new.parameters[n] for n, p in products.items()}
            of_old = {n: (g - minus.statistics[n]) / scaled(2 * epsilon, g) for n, g in plus.statistics.items()}
            of_old = {n: d + of_old[n] if n in of_old else d for n, d in of_new.statistics.items()}
            through = Pullback(products, of_old, of_action + of_new.action)
        return self._joined(state, action, back, through)

    def pushforward(
        self, state: StudentState, action: torch.Tensor, t: int, tangent: Cotangent, of_action: torch.Tensor
    ) -> Cotangent:
        """Returns the tangent of the next state, by forward mode over the step and its reverse-mode gradient."""

        def pushed() -> Cotangent:
            parameters = {n: dual(p, tangent.parameters[n]) for n, p in leaves(state.parameters).items()}
            slots = {n: dual(slot, tangent.slots[n]) for n, slot in state.slots.items()}
            buffers = {n: dual(b, tangent.buffers[n]) if n in tangent.buffers else b for n, b in state.buffers.items()}
            taken = dual(action.detach(), of_action)
            gradient, new_buffers = self.update.gradient_with_graph(parameters, buffers, state.step, taken)
            moving = {n: parameters[n] for n in gradient}
            optimizer, rate = self.update.optimizer_at(state, taken)
            after, new_slots = optimizer.update(moving, gradient, slots_of(slots, moving), rate, state.step)
            return Cotangent(
                {n: tangent_of(p) for n, p in (parameters | after).items()},
                {n: tangent_of(slot) for n, slot in (slots | new_slots).items()},
                {n: tangent_of(new_buffers[n]) for n in tangent.buffers},
            )

        return in_forward_mode(pushed)

    def _joined(
        self, state: StudentState, action: torch.Tensor, back: Reversed, through: Pullback
    ) -> tuple[Cotangent, torch.Tensor]:
        """Returns (cotangent of the state, cotangent of the whole action), given those through the gradient."""
        cotangent, part = back.joined(through)
        of_action = self.update.of_action(state, action, part)
        # The second may be sparse.
        return cotangent, of_action if back.of_settings is None else back.of_settings + of_action

    def _reversed(
        self, state: StudentState, action: torch.Tensor, cotangent: Cotangent, gradient: Tensors | None
    ) -> Reversed:
        d_parameters = cotangent.parameters
        names = self.update.moved(d_parameters)
        with torch.no_grad():
            optimizer, rate = self.update.optimizer_at(state, action.detach())
            if len(names) < len(d_parameters):
                back = self._reversed_in_part(optimizer, state, rate, cotangent, gradient, names)
            elif optimizer.scales(rate):
                back = Reversed(*optimizer.reverse_scaled(d_parameters, cotangent.carried, rate, cotangent.factor))
            else:
                direction, direct, slots = optimizer.reverse(
                    d_parameters, cotangent.slots, rate, state.step, state.parameters, gradient, state.slots
                )
                back = Reversed(direction, 1.0, direct, slots, 1.0)
        back = replace(
            back,
            direction=in_order(back.direction, names),
            direct=in_order(back.direct, d_parameters),
            carried=in_order(back.carried, cotangent.carried),
        )
        if gradient is None or not self.update.adjusts:
            return back
        return replace(back, of_settings=self._of_settings(state, action, cotangent, gradient))

    def _of_settings(
        self, state: StudentState, action: torch.Tensor, cotangent: Cotangent, gradient: Tensors
    ) -> torch.Tensor:
        """Returns the cotangent of the action on the way through the optimiser's settings: autograd over the update."""
        moving, slots = {n: state.parameters[n] for n in gradient}, slots_of(state.slots, gradient)
        with torch.enable_grad():
            leaf = action.detach().requires_grad_()
            optimizer, rate = self.update.optimizer_at(state, leaf)
            after, new_slots = optimizer.update(moving, gradient, slots, rate, state.step)
            pairs = [(after[n], cotangent.parameters[n]) for n in after]
            pairs += [(new_slots[n], d) for n, d in cotangent.slots.items() if n in new_slots]
            outputs, cotangents = zip(*((output, d) for output, d in pairs if output.requires_grad), strict=True)
            of_settings: torch.Tensor
            (of_settings,) = torch.autograd.grad(outputs, [leaf], cotangents, materialize_grads=True)
        return of_settings

    def _reversed_in_part(
        self,
        optimizer: Optimizer,
        state: StudentState,
        rate: Rate,
        cotangent: Cotangent,
        gradient: Tensors | None,
        names: list[str],
    ) -> Reversed:
        """Reverses a step that moves some of the parameters; the cotangents of the others stay as they are."""
        parameters = {n: state.parameters[n] for n in names} if optimizer.needs_gradient else None
        direction, direct, slots = optimizer.reverse(
            {n: cotangent.parameters[n] for n in names},
            slots_of(cotangent.slots, names),
            rate,
            state.step,
            parameters,
            gradient,
            slots_of(state.slots, names),
        )
        return Reversed(direction, 1.0, cotangent.parameters | direct, cotangent.slots | slots, 1.0)
