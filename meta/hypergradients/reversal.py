"""Steps of an optimiser taken backwards, every state restored to the bit.

The state before a step follows from the one after it but for rounding: parameters from the parameters and slots after
it, and slots with the gradient there, which the way back computes anyway (`Optimizer.parameters_before`,
`slots_before`). What the predictions lack is written down on the way forwards (`Corrections`): some two bits of a
parameter and step for SGD with momentum, six for Adam, where states take 32 and 96.

For SGD the momentum is not restored where its adjoint does not read it. With ω_{t+1} = ω_t − η(μv_t + g̃_t) and
ω_t = ω_{t−1} − ηv_t, it is enough to correct ω_{t−1} ≈ ω_t + η v̂_t with v̂_t = ((ω_t − ω_{t+1})/η − g̃_t)/μ.

All parameters of a student, or of a batch of students, that move alike lie side by side in one tensor of one dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from meta.hypergradients.corrections import PADDED, Corrections
from meta.hypergradients.process import Adjoint
from teachenv.optimizers import Optimizer, Places, Rate, Step, Tensors
from teachenv.optimizers.base import SETTINGS
from teachenv.state import Gradient, StudentState
from teachenv.trees import bytes_of
from teachenv.update import Adjoint as AdjointOfGradient
from teachenv.update import Update

AdjointAt = Callable[[StudentState, torch.Tensor, Gradient, AdjointOfGradient], Adjoint]

_CHECKED_EVERY = 16


class Layout:
    """How the parameters of a state lie side by side, in one tensor for each group that moves alike.

    A group's tensor is named after its first parameter, so that an optimiser of groups knows whose it is.

    Args:
        parameters: by name, all of one floating type.
        groups: the names of each group.
    """

    def __init__(self, parameters: Tensors, groups: Iterable[Collection[str]]) -> None:
        """Notes names, shapes and sizes."""
        self._names = [*parameters]
        members = [[name for name in parameters if name in group] for group in groups]
        self._shapes = {names[0]: {name: parameters[name].shape for name in names} for names in members if names}
        self._padding = {}
        for group, shapes in self._shapes.items():
            size = sum(shape.numel() for shape in shapes.values())
            self._padding[group] = parameters[group].new_zeros(-size % PADDED)

    def flat(self, tensors: Tensors, kind: str = "", out: Tensors | None = None) -> Tensors:
        """Copies the tensors of all parameters, or their slots of a kind, side by side; to `out`, if there is one."""
        flat = {}
        for name, shapes in self._of_kind(tensors, kind):
            parts = [*(tensors[_slot(kind, each)].reshape(-1) for each in shapes), self._padding[name]]
            slot = _slot(kind, name)
            flat[slot] = torch.cat(parts, out=None if out is None else out[slot])
        return flat

    def views(self, flat: Tensors, kind: str = "") -> Tensors:
        """Returns the parts of flat tensors as those of the parameters, or of their slots of a kind."""
        views = {}
        for name, shapes in self._of_kind(flat, kind):
            begin = 0
            for each, shape in shapes.items():
                views[_slot(kind, each)] = flat[_slot(kind, name)][begin : begin + shape.numel()].view(shape)
                begin += shape.numel()
        return {slot: views[slot] for slot in (_slot(kind, name) for name in self._names) if slot in views}

    def _of_kind(self, tensors: Tensors, kind: str) -> list[tuple[str, dict[str, torch.Size]]]:
        """Returns (first parameter, shapes) of the groups that have slots of a kind; all have parameters."""
        return [(name, shapes) for name, shapes in self._shapes.items() if _slot(kind, name) in tensors]

    def spread(self, values: Any) -> Any:
        """Returns one value for each number, of one for each student of a batch, which is one group; else the value."""
        if isinstance(values, np.ndarray) and values.min() == values.max():
            return int(values.flat[0])
        if not isinstance(values, torch.Tensor | np.ndarray) or not values.ndim:
            return values
        (shapes,), (padding,) = self._shapes.values(), self._padding.values()
        counts = [shape.numel() // len(values) for shape in shapes.values()]
        if isinstance(values, np.ndarray):
            return np.concatenate([*(np.repeat(values, n) for n in counts), np.zeros(len(padding), values.dtype)])
        return torch.cat([*(values.repeat_interleave(n) for n in counts), torch.ones_like(padding)])


@dataclass(frozen=True)
class Restored:
    """A state that was reached on the way back.

    Attributes:
        state: what a step's adjoint reads of it.
        adjoint: the adjoint of the step from it; None where there is none yet, since its graph has other kernels.
        gradients: how many gradients that took.
    """

    state: StudentState
    adjoint: Adjoint | None
    gradients: int


class Reversal:
    """A stretch of steps that is taken forwards, and then backwards.

    Args:
        update: the step.
        adjoint_at: (state, action, gradient there, its adjoint) to the adjoint of the step.
        state: where the stretch begins.
        first: the number of the first step, for messages.
        with_slots: whether slots are restored, too.
        graphs: whether the gradients of the way back are wanted with their adjoints.

    Attributes:
        state: where the walk stands on its way forwards.
        bytes: the bytes of what was written down, and of the buffers that changed.
    """

    def __init__(
        self,
        update: Update,
        adjoint_at: AdjointAt,
        state: StudentState,
        first: int,
        *,
        with_slots: bool,
        graphs: bool,
    ) -> None:
        """Copies the parameters of the first state to where they lie side by side."""
        self._adjoint_at, self._restores, self._graphs = adjoint_at, with_slots, graphs
        self._update, self._optimizer, self._first = update, update.optimizer, first
        self._layout = Layout(state.parameters, self._optimizer.groups_of(state.parameters))
        self._kinds = list(dict.fromkeys(slot.rpartition(":")[0] for slot in state.slots))
        self._codes, self._buffer_bytes = Corrections(), 0
        self._taken: list[StudentState] = []  # without parameters and slots
        self._sums: dict[int, int] = {}
        self._now = self._layout.flat(state.parameters)
        self._before: Tensors = {}
        self._spare, self._gradient = _like(self._now), _like(self._now)  # the gradient of the last step
        self._compared = False
        self._slots = self._flat_slots(state) if self._restores else {}
        self._settings_before: tuple[Optimizer, Rate, Step] = (self._optimizer, 0.0, 0)
        self.state = replace(state, parameters=self._layout.views(self._now))

    @property
    def bytes(self) -> int:
        """The bytes of what was written down, of changed buffers, and of what a step takes."""
        return self._codes.bytes + self._buffer_bytes + 4 * bytes_of(self._now) + bytes_of(self._slots)

    def step(self, action: torch.Tensor) -> StudentState:
        """Takes a step forwards; the state before last is overwritten."""
        state, layout, restores = self.state, self._layout, self._restores
        gradient = self._update.gradient(state, action)
        after = self._update.apply(state, action, gradient, Places(layout.views(self._spare), {}))
        optimizer, rate, step = settings = self._settings(state, action)
        layout.flat(gradient.parameters, out=self._gradient)
        slots, slots_after = self._slots, self._flat_slots(after) if restores else {}
        predicted = optimizer.slots_before(self._now, self._spare, self._gradient, slots_after, rate, step)
        if self._taken:
            self._write_parameters(predicted if not restores else slots)
        for name in slots:
            self._codes.push(predicted[name], slots[name])
        if len(self._taken) % _CHECKED_EVERY == 0:
            self._sums[len(self._taken)] = _sum_of(self._now)
        pairs = {name: (old, after.buffers[name]) for name, old in state.buffers.items()}
        buffers = {name: old if torch.equal(old, new) else new for name, (old, new) in pairs.items()}
        self._buffer_bytes += sum(bytes_of(new) for name, new in buffers.items() if new is not pairs[name][0])
        self._settings_before = settings
        self._taken.append(replace(state, parameters={}, slots={}))
        before = self._before or _like(self._now)
        self._before, self._now, self._spare, self._slots = self._now, self._spare, before, slots_after
        self.state = replace(after, buffers=buffers)
        return self.state

    def finish(self) -> None:
        """Ends the way forwards."""
        self._slots = self._flat_slots(self.state)
        self._write_parameters(self._slots)
        self._before = self._spare = {}

    def back(self, action: torch.Tensor) -> Restored:
        """Takes a step backwards.

        Raises:
            RuntimeError: a state is not the one of the way forwards.
        """
        layout, state, after = self._layout, self._taken.pop(), self._now
        optimizer, rate, step = self._settings(state, action)
        before = self._corrected(optimizer.parameters_before(after, self._slots, rate, step), after)
        sums = self._sums.pop(len(self._taken), None)
        if sums is not None and sums != _sum_of(before):
            raise RuntimeError(
                f"the state before step {self._first + len(self._taken)} was not restored exactly (its checksum "
                f"differs): one of the {_CHECKED_EVERY} steps from there gave other bits when it was repeated; take "
                "memory='log', which reverses no step"
            )
        state = replace(state, parameters=layout.views(before))
        gradient, of_gradient, gradients = self._gradient_again(state, action)
        g = layout.flat(gradient.parameters, out=self._gradient)
        known = self._slots if self._restores else {}
        slots = optimizer.slots_before(before, after, g, known, rate, step)
        if self._restores:
            slots = self._corrected(slots, known)
            of_kinds = [layout.views(slots, kind) for kind in self._kinds]
            state = replace(state, slots={name: slot for views in of_kinds for name, slot in views.items()})
        self._now, self._slots = before, slots
        adjoint = None if of_gradient is None else self._adjoint_at(state, action, gradient, of_gradient)
        return Restored(state, adjoint, gradients)

    def _corrected(self, predicted: Tensors, order: Iterable[str]) -> Tensors:
        """Returns predictions with their corrections, which were written down in that order."""
        corrected = {name: self._codes.pop(predicted[name]) for name in reversed([*order])}
        return {name: corrected[name] for name in order}

    def _gradient_again(
        self, state: StudentState, action: torch.Tensor
    ) -> tuple[Gradient, AdjointOfGradient | None, int]:
        """Returns (a state's gradient, bitwise as on the way forwards; its adjoint; how many gradients that took).

        With the graph that the adjoint needs it may have other bits, of other kernels; the last step, which is the
        first one backwards, tells. From then on it is taken without, and the adjoint is left to be taken after it.
        """
        gradients = 0
        if self._graphs:
            gradient, adjoint = self._update.linearize(state, action)
            # At the first call it is the gradient of the last step forwards.
            self._graphs = self._compared or self._is_last(gradient)
            self._compared, gradients = True, 1
            if self._graphs:
                return gradient, adjoint, 1
            del adjoint
        return self._update.gradient(state, action), None, gradients + 1

    def _is_last(self, gradient: Gradient) -> bool:
        flat = self._layout.flat(gradient.parameters)
        return all(torch.equal(flat[name], last) for name, last in self._gradient.items())

    def _write_parameters(self, slots: Tensors) -> None:
        optimizer, rate, step = self._settings_before
        predicted = optimizer.parameters_before(self._now, slots, rate, step)
        for name, before in self._before.items():
            self._codes.push(predicted[name], before)

    def _settings(self, state: StudentState, action: torch.Tensor) -> tuple[Optimizer, Rate, Step]:
        """Returns (optimiser, learning rate, steps taken before) of a step, for the numbers side by side."""
        optimizer, rate = self._update.optimizer_at(state, action.detach())
        each = {
            name: getattr(optimizer, name) for name in SETTINGS if isinstance(getattr(optimizer, name, 0), torch.Tensor)
        }
        if each:
            optimizer = optimizer.under(**{name: self._layout.spread(value) for name, value in each.items()})
        return optimizer, self._layout.spread(rate), self._layout.spread(state.step)

    def _flat_slots(self, state: StudentState) -> Tensors:
        return {name: flat for kind in self._kinds for name, flat in self._layout.flat(state.slots, kind).items()}


def _like(tensors: Tensors) -> Tensors:
    return {name: torch.empty_like(tensor) for name, tensor in tensors.items()}


def _slot(kind: str, name: str) -> str:
    return f"{kind}:{name}" if kind else name


def _sum_of(flat: Tensors) -> int:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return sum(int(tensor.view(integers[tensor.element_size()]).sum()) for tensor in flat.values())
