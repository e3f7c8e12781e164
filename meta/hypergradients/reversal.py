"""Steps of an optimiser taken backwards, every state restored to the bit.

The state before a step follows from the one after it but for rounding: parameters from the parameters and slots after
it, and slots with the gradient there, which the way back computes anyway (`Optimizer.parameters_before`,
`slots_before`). What the predictions lack is written down on the way forwards (`Corrections`): some two bits of a
parameter and step for SGD with momentum, six for Adam, where states take 32 and 96.

For SGD the momentum is not restored where its adjoint does not read it. With ω_{t+1} = ω_t − η(μv_t + g̃_t) and
ω_t = ω_{t−1} − ηv_t, it is enough to correct ω_{t−1} ≈ ω_t + η v̂_t with v̂_t = ((ω_t − ω_{t+1})/η − g̃_t)/μ.

All parameters of a student, or of a batch of students, lie side by side in one tensor of one dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from meta.hypergradients.corrections import PADDED, Corrections
from meta.hypergradients.process import Adjoint
from teachenv.optimizers import Optimizer, Rate, Step, Tensors
from teachenv.optimizers.base import SETTINGS
from teachenv.state import Gradient, StudentState
from teachenv.trees import bytes_of
from teachenv.update import Adjoint as AdjointOfGradient
from teachenv.update import Update

AdjointAt = Callable[[StudentState, torch.Tensor, Gradient, AdjointOfGradient], Adjoint]

_ALL = ""
"""The name under which an optimiser sees all parameters as one."""
_CHECKED_EVERY = 16


class Layout:
    """How the parameters of a state lie side by side.

    Args:
        parameters: by name, all of one floating type.
    """

    def __init__(self, parameters: Tensors) -> None:
        """Notes names, shapes and sizes."""
        self._shapes = {name: p.shape for name, p in parameters.items()}
        like = next(iter(parameters.values()))
        size = sum(p.numel() for p in parameters.values())
        self._padding = like.new_zeros(-size % PADDED)
        self.size = size + len(self._padding)

    def flat(self, tensors: Tensors, kind: str = "", out: torch.Tensor | None = None) -> torch.Tensor:
        """Copies the tensors of all parameters, or their slots of a kind, side by side; to `out`, if there is one."""
        prefix = f"{kind}:" if kind else ""
        return torch.cat([*(tensors[prefix + name].reshape(-1) for name in self._shapes), self._padding], out=out)

    def views(self, flat: torch.Tensor, kind: str = "") -> Tensors:
        """Returns the parts of a flat tensor as those of the parameters, or of their slots of a kind."""
        prefix, views, begin = f"{kind}:" if kind else "", {}, 0
        for name, shape in self._shapes.items():
            views[prefix + name] = flat[begin : begin + shape.numel()].view(shape)
            begin += shape.numel()
        return views

    def spread(self, values: Any) -> Any:
        """Returns one value for each number, of one for each student of a batch; a single one as it is."""
        if isinstance(values, np.ndarray):
            if values.min() == values.max():
                return int(values.flat[0])
            counts = [np.repeat(values, shape.numel() // len(values)) for shape in self._shapes.values()]
            return np.concatenate([*counts, np.zeros(len(self._padding), values.dtype)])
        if isinstance(values, torch.Tensor) and values.dim():
            parts = [values.repeat_interleave(shape.numel() // len(values)) for shape in self._shapes.values()]
            return torch.cat([*parts, torch.ones_like(self._padding)])
        return values


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
        self._layout = Layout(state.parameters)
        self._kinds = list(dict.fromkeys(slot.rpartition(":")[0] for slot in state.slots))
        self._codes, self._buffer_bytes = Corrections(), 0
        self._taken: list[StudentState] = []  # without parameters and slots
        self._sums: dict[int, int] = {}
        self._now, self._before = self._layout.flat(state.parameters), torch.empty(0)
        self._gradient = torch.empty_like(self._now)  # of the last step
        self._compared = False
        self._slots = self._flat_slots(state) if self._restores else {}
        self._spare = torch.empty_like(self._now)
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
        after = self._update.apply(state, action, gradient, layout.views(self._spare))
        optimizer, rate, step = settings = self._settings(state, action)
        layout.flat(gradient.parameters, out=self._gradient)
        g, new = {_ALL: self._gradient}, {_ALL: self._spare}
        now, slots, slots_after = {_ALL: self._now}, self._slots, {}
        if restores:
            slots_after = self._flat_slots(after)
        predicted = optimizer.slots_before(now, new, g, slots_after, rate, step)
        if self._taken:
            self._write_parameters(predicted if not restores else slots)
        if restores:
            for name in slots:
                self._codes.push(predicted[name], slots[name])
        if len(self._taken) % _CHECKED_EVERY == 0:
            self._sums[len(self._taken)] = _sum_of(self._now)
        pairs = {name: (old, after.buffers[name]) for name, old in state.buffers.items()}
        buffers = {name: old if torch.equal(old, new) else new for name, (old, new) in pairs.items()}
        self._buffer_bytes += sum(bytes_of(new) for name, new in buffers.items() if new is not pairs[name][0])
        self._settings_before = settings
        self._taken.append(replace(state, parameters={}, slots={}))
        before = self._before if self._before.numel() else torch.empty_like(self._now)
        self._before, self._now, self._spare, self._slots = self._now, self._spare, before, slots_after
        self.state = replace(after, buffers=buffers)
        return self.state

    def finish(self) -> None:
        """Ends the way forwards."""
        self._slots = self._flat_slots(self.state)
        self._write_parameters(self._slots)
        self._before = self._spare = torch.empty(0)

    def back(self, action: torch.Tensor) -> Restored:
        """Takes a step backwards.

        Raises:
            RuntimeError: a state is not the one of the way forwards.
        """
        layout, state = self._layout, self._taken.pop()
        optimizer, rate, step = self._settings(state, action)
        now, after = {_ALL: self._now}, self._now
        before = self._codes.pop(optimizer.parameters_before(now, self._slots, rate, step)[_ALL])
        sums = self._sums.pop(len(self._taken), None)
        if sums is not None and sums != _sum_of(before):
            raise RuntimeError(
                f"the state before step {self._first + len(self._taken)} was restored other than it was (its checksum "
                f"differs): within {_CHECKED_EVERY} steps from there a step was not repeated to the bit; take "
                "memory='log', which does without"
            )
        state = replace(state, parameters=layout.views(before))
        gradient, of_gradient, gradients = self._gradient_again(state, action)
        g = {_ALL: layout.flat(gradient.parameters, out=self._gradient)}
        known = self._slots if self._restores else {}
        slots = optimizer.slots_before({_ALL: before}, {_ALL: after}, g, known, rate, step)
        if self._restores:
            slots |= {name: self._codes.pop(slots[name]) for name in reversed(slots)}
            of_kinds = [layout.views(slots[_slot(kind)], kind) for kind in self._kinds]
            state = replace(state, slots={name: slot for views in of_kinds for name, slot in views.items()})
        self._now, self._slots = before, slots
        adjoint = None if of_gradient is None else self._adjoint_at(state, action, gradient, of_gradient)
        return Restored(state, adjoint, gradients)

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
            self._graphs = self._compared or torch.equal(self._layout.flat(gradient.parameters), self._gradient)
            self._compared, gradients = True, 1
            if self._graphs:
                return gradient, adjoint, 1
            del adjoint
        return self._update.gradient(state, action), None, gradients + 1

    def _write_parameters(self, slots: Mapping[str, torch.Tensor]) -> None:
        optimizer, rate, step = self._settings_before
        predicted = optimizer.parameters_before({_ALL: self._now}, dict(slots), rate, step)
        self._codes.push(predicted[_ALL], self._before)

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
        return {_slot(kind): self._layout.flat(state.slots, kind) for kind in self._kinds}


def _slot(kind: str) -> str:
    return f"{kind}:{_ALL}" if kind else _ALL


def _sum_of(flat: torch.Tensor) -> int:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    return int(flat.view(integers).sum())
