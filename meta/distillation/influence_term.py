"""What a teacher's outputs do to a student's held-out loss, as a gradient of the teacher.

Let D(T, S) be the distillation loss of a batch, g(t) = ∇_s D(T(t), S(s)) the student's gradient under a teacher with
parameters t, and v the gradient of its held-out loss L. A plain step of size η gives s − η g(t), and for v taken there

    ∇_t L(s − η g(t)) = −η ∇_t ⟨g(t), v⟩,        ⟨g(t), v⟩ = ⟨∂D/∂S, ∂_v S⟩,

exactly: ∂_v S, the derivative of the student's outputs along v, does not depend on the teacher. So one directional
derivative of the student and one backward pass of the teacher give the gradient, and second derivatives only of D. For
D the mean of CE(T_i, S_i) over decisions i, ⟨g(t), v⟩ is the batch's mean influence (`meta.influence`), the loss of Ren
et al. 2023, eq. 10. To help the student it is to be ascended: added to a loss that is minimised, as their eq. 11 reads,
it harms; their code subtracts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn

from meta.distillation.batch import Batch
from meta.distillation.learner import Learner, outputs_of
from meta.influence.derivatives import directional_derivative
from teachenv.optimizers import Tensors

Derivative = Literal["exact", "finite-difference"]


def logits_along(
    student: Learner, batch: Batch, v: Tensors, method: Derivative, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (the student's logits, their derivative ∂_v S along v), each (N, classes), without dropout.

    Args:
        student: the student, with the parameters s.
        batch: the minibatch, of N decisions.
        v: the direction in which the parameters move, by name.
        method: `"exact"` or `"finite-difference"`, as in `meta.influence`.
        radius: the length of the step of `"finite-difference"`, in the space of the parameters.
    """

    def logits(network: nn.Module, batch: Batch) -> torch.Tensor:
        return outputs_of(network, batch).logits

    with torch.no_grad():
        values = student.outputs(batch, training=False).logits
    return values, directional_derivative(student.network, logits, batch, v, method=method, radius=radius)


def influence_gradient(
    teacher: Learner,
    taught: torch.Tensor,
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    logits: torch.Tensor,
    derivative: torch.Tensor,
) -> Tensors:
    """Computes ∇_t ⟨∂D/∂S, ∂_v S⟩, by name of the teacher's parameters (Ren et al. 2023, eq. 10).

    Args:
        teacher: the teacher, with the parameters t.
        taught: the teacher's logits, (N, classes), with their graph; taken without dropout, as the student's are.
        loss: D, a function of (the teacher's logits, the student's), twice differentiable.
        logits: the student's logits, (N, classes).
        derivative: their derivative along v, (N, classes).
    """
    student = logits.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(taught, student), student, create_graph=True)
    return teacher.gradient((slope * derivative).sum())
