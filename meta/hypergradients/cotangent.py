"""What is carried backwards through the steps of an optimiser."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from teachenv.optimizers import Tensors
from teachenv.state import Pullback


@dataclass(frozen=True)
class Cotangent:
    """dJ/dx of the state x of a descent: one tensor for each of its tensors that J can depend on.

    Attributes:
        parameters: dJ/dω, by name, in the shapes of the parameters ω.
        carried: dJ/d(slots) of the optimiser, by name, to be multiplied by `factor`.
        buffers: dJ/d(running statistics), by name.
        factor: the number that `carried` still has to be multiplied by. To multiply a large student's momentum at
            every step would be a tenth of its time.
    """

    parameters: Tensors
    carried: Tensors
    buffers: Tensors
    factor: float = 1.0

    @property
    def slots(self) -> Tensors:
        """dJ/d(slots) of the optimiser, by name, with `factor` multiplied in."""
        return self.carried if self.factor == 1.0 else {n: self.factor * d for n, d in self.carried.items()}


@dataclass(frozen=True)
class Reversed:
    """The optimiser's part of an adjoint.

    Attributes:
        direction: the cotangent of the gradient, dg in the module's equations, divided by `scale`.
        scale: the number that `direction` has to be multiplied by to be dg.
        direct: the cotangent of the parameters on the way that does not lead through the gradient.
        carried: the cotangent of the optimiser's slots, divided by `factor`, as in `Cotangent`.
        factor: the number that `carried` still has to be multiplied by.
        of_settings: the cotangent of the action on the way through the optimiser's settings; None: it sets none.
    """

    direction: Tensors
    scale: float
    direct: Tensors
    carried: Tensors
    factor: float
    of_settings: torch.Tensor | None = None

    def before(self, statistics: Tensors) -> Tensors:
        """Cotangents that go through the gradient's adjoint beside the direction, which leaves out the scale."""
        return statistics if self.scale == 1.0 else {n: d / self.scale for n, d in statistics.items()}

    def joined(self, through: Pullback) -> tuple[Cotangent, torch.Tensor]:
        """Returns cotangents (of the state, of what the step reads of the action), given those through the gradient."""
        with torch.no_grad():
            parameters = {n: d.add(through.parameters[n], alpha=self.scale) for n, d in self.direct.items()}
            statistics, of_action = through.statistics, through.action
            if self.scale != 1.0:
                statistics = {n: self.scale * d for n, d in statistics.items()}
                of_action = self.scale * of_action
        return Cotangent(parameters, self.carried, statistics, self.factor), of_action
