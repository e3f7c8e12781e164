"""A trial of an optimiser of a user's own, on two small parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from teachenv.optimizers import Optimizer, Tensors
from teachenv.trial.calls import called_once, form

_RATE = 0.1
_ENTRY_BY_ENTRY = (
    "of many students compute entry by entry, and multiply by teachenv.optimizers.along(rate, tensor), since each may "
    "have a rate of its own"
)


class OptimizerTrial:
    """The calls that a training makes of an optimiser.

    Args:
        optimizer: the optimiser, a user's own.
        name: its name in `teachenv.optimizers.OPTIMIZERS`.
        dtype: the student's.
        device: the student's.

    Raises:
        ValueError: a method of the optimiser is missing, or it does not say whether it needs the gradient.
    """

    def __init__(self, optimizer: Optimizer, name: str, dtype: torch.dtype, device: torch.device) -> None:
        self.optimizer, self.piece, self.device = optimizer, f"optimizer {name!r}", device
        for method in ("init", "update", "reverse"):
            if not callable(getattr(optimizer, method, None)):
                raise ValueError(
                    f"{self.piece} has no {method}, expected init, update and reverse; inherit "
                    "teachenv.optimizers.Optimizer and write them"
                )
        if not isinstance(getattr(optimizer, "needs_gradient", None), bool):
            raise ValueError(
                f"{self.piece} does not say whether its reverse reads the gradient, expected needs_gradient = True or "
                f"False in class {type(optimizer).__name__}"
            )
        random = torch.Generator().manual_seed(0)
        shapes = {"layer.weight": (2, 2, 3), "layer.bias": (2, 2)}
        both = [{n: torch.randn(s, generator=random).to(device, dtype) for n, s in shapes.items()} for _ in range(2)]
        self.parameters, self.gradient = both
        """Of two students, with a leading dimension 2."""

    def one(self, i: int, *, in_part: bool) -> tuple[Tensors, Tensors]:
        """Takes a step of one of the students, and its adjoint.

        Args:
            i: which.
            in_part: whether a step of training moves some of the parameters at a time, so that each slot must be one
                parameter's.

        Returns:
            The new parameters and slots.
        """
        parameters, gradient = ({n: t[i] for n, t in tensors.items()} for tensors in (self.parameters, self.gradient))
        slots = self.begun(parameters)
        if in_part:
            self._require_names(slots)
        result = self.stepped(parameters, gradient, slots, _RATE, 0)
        self._try_reverse(parameters, gradient, slots)
        return result

    def try_many(self) -> None:
        """Takes a step of both students together, which must be what it is for each of them.

        Raises:
            ValueError: it is not.
        """
        slots = self.begun(self.parameters)
        for name, slot in slots.items():
            if slot.shape[:1] != (2,):
                raise ValueError(
                    f"{self.piece}: its slot {name!r} is {form(slot)} of parameters of two students, expected a "
                    "leading dimension 2; make slots like the parameters, and take the number of steps from `step`"
                )
        each = [self.one(i, in_part=False) for i in range(2)]
        rates = torch.full((2,), _RATE, dtype=self.gradient["layer.bias"].dtype, device=self.device)
        for rate, step in ((_RATE, 0), (rates, np.zeros(2, dtype=np.int64))):
            try:
                together = self.stepped(self.parameters, self.gradient, slots, rate, step)
            except ValueError as error:
                raise ValueError(f"{error}; {_ENTRY_BY_ENTRY}") from error
            for i, one in enumerate(each):
                for mine, other in zip(together, one, strict=True):
                    if not all(torch.allclose(mine[name][i], other[name], rtol=1e-4, atol=1e-5) for name in other):
                        a_rate = "one rate" if rate is _RATE else "a tensor of rates, shape (2,)"
                        raise ValueError(
                            f"{self.piece}: update of two students together, with {a_rate}, leads elsewhere than of "
                            f"each alone; {_ENTRY_BY_ENTRY}"
                        )

    def begun(self, parameters: Tensors) -> Tensors:
        """The slots before the first step.

        Raises:
            ValueError: they are no named tensors.
        """
        return self._tensors("init", self._called("init", parameters))

    def stepped(
        self, parameters: Tensors, gradient: Tensors, slots: Tensors, rate: Any, step: Any
    ) -> tuple[Tensors, Tensors]:
        """The parameters and slots after a step.

        Raises:
            ValueError: the step is none, or changes its arguments.
        """
        given = [{n: t.clone() for n, t in tensors.items()} for tensors in (parameters, gradient, slots)]
        new = self._called("update", *given, rate, step)
        for name, tensors, before in zip(
            ("parameters", "gradient", "slots"), given, (parameters, gradient, slots), strict=True
        ):
            if changed := [n for n, t in before.items() if n not in tensors or not torch.equal(tensors[n], t)]:
                raise ValueError(
                    f"{self.piece}: update changes its {name} ({changed[0]!r}), expected them as they were; return new "
                    "tensors"
                )
        if not isinstance(new, tuple | list) or len(new) != 2:
            raise ValueError(
                f"{self.piece}: update returns {form(new)}, expected two: the new parameters and the new slots ({{}} "
                "without any)"
            )
        for what, tensors, before in zip(("parameters", "slots"), new, (parameters, slots), strict=True):
            self._require_like(f"update returns as {what}", tensors, before)
        return new[0], new[1]

    def _try_reverse(self, parameters: Tensors, gradient: Tensors, slots: Tensors) -> None:
        """Takes the adjoint; an optimiser that says it has none is for teachers that use no gradients."""
        needed = (parameters, gradient, slots) if self.optimizer.needs_gradient else (None, None, None)
        try:
            with torch.no_grad():
                result: Any = self.optimizer.reverse(dict(gradient), dict(slots), _RATE, 0, *needed)
        except NotImplementedError:
            return
        except Exception as error:  # whatever a user's code raises
            advice = "; set needs_gradient = True if it reads parameters, gradient or slots"
            raise ValueError(
                f"{self.piece}: reverse fails with {type(error).__name__}: {error}"
                + ("" if self.optimizer.needs_gradient else advice)
            ) from error
        if not isinstance(result, tuple | list) or len(result) != 3:
            raise ValueError(
                f"{self.piece}: reverse returns {form(result)}, expected the cotangents of the gradient, of the old "
                "parameters and of the old slots; raise NotImplementedError where no gradient is wanted"
            )
        for what, tensors, like in zip(
            ("the gradient", "the parameters", "the slots"), result, (parameters, parameters, slots), strict=True
        ):
            self._require_like(f"reverse returns as cotangents of {what}", tensors, like)

    def _called(self, method: str, *arguments: Any) -> Any:
        with torch.no_grad():
            return called_once(f"{self.piece}: {method}", getattr(self.optimizer, method), arguments, self.device)

    def _tensors(self, method: str, value: object) -> Tensors:
        if isinstance(value, Mapping) and all(isinstance(tensor, torch.Tensor) for tensor in value.values()):
            return dict(value)
        raise ValueError(f"{self.piece}: {method} returns {form(value)}, expected a dict of tensors by their names")

    def _require_like(self, start: str, value: object, like: Tensors) -> None:
        tensors = self._tensors(start.partition(" ")[0], value)
        if tensors.keys() != like.keys():
            raise ValueError(f"{self.piece}: {start} {sorted(tensors)}, expected the names {sorted(like)}")
        for name, tensor in tensors.items():
            if (tensor.shape, tensor.dtype) != (like[name].shape, like[name].dtype):
                raise ValueError(
                    f"{self.piece}: {start} {name!r} {form(tensor)}, expected {form(like[name])} as it was before"
                )

    def _require_names(self, slots: Tensors) -> None:
        for slot in slots:
            if slot.rpartition(":")[2] not in self.parameters:
                raise ValueError(
                    f"{self.piece} has a slot {slot!r} that is not named after a parameter, expected '<parameter>' or "
                    "'<kind>:<parameter>' where a step moves some parameters at a time, as in joint distillation; the "
                    "number of steps is given as `step`"
                )
