"""What a teacher's outputs do to a student's held-out loss, as a gradient of the teacher.

Let g(t) = ∇_s (1/B) Σ_i CE(T_i, S_i) be the student's distillation gradient under a teacher with parameters t, and v
the gradient of its held-out loss. A plain step of size η gives s − η g(t), and for v taken there

    ∇_t L(s − η g(t)) = −η ∇_t ⟨g(t), v⟩,        ⟨g(t), v⟩ = −(1/B) Σ_i Σ_c T_ic ∂_v log S_ic,

exactly: T enters linearly, and the derivatives ∂_v of the student along v are constants. So one derivative of the
student along v and one backward pass of the teacher give the gradient, without second derivatives. ⟨g(t), v⟩ is the
batch's mean influence (`meta.influence`), the loss of Ren et al. 2023, eq. 10. To help the student it is to be
ascended: added to a loss that is minimised, as their eq. 11 reads, it harms; their code subtracts it.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.nn import functional as F

from meta.distillation.learner import Learner, outputs_of
from meta.influence import directional_derivative
from teachenv.optimizers import Tensors

Derivative = Literal["exact", "finite-difference"]


def log_derivatives(
    student: Learner, inputs: Any, v: Tensors, temperature: float, method: Derivative, radius: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, ∂_v log S), each (B, classes), without dropout.

    Args:
        student: at s.
        inputs: of the batch.
        v: the direction.
        temperature: τ.
        method: of the derivative; see `meta.influence`.
        radius: of `"finite-difference"`.
    """

    def log_probabilities(network: torch.nn.Module, inputs: Any) -> torch.Tensor:
        return F.log_softmax(outputs_of(network, inputs).logits / temperature, -1)

    with torch.no_grad():
        here = F.softmax(student.outputs(inputs, training=False).logits / temperature, -1)
    along = directional_derivative(student.network, log_probabilities, inputs, v, method=method, radius=radius)
    return here, along


def influence_gradient(
    teacher: Learner, inputs: Any, along: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> Tensors:
    """∇_t of mean influence −(1/B) Σ_i Σ_c T_ic ∂_v log S_ic.

    Args:
        teacher: at t; taken without dropout, as the derivative is.
        inputs: of the batch.
        along: ∂_v log S, (B, classes).
        temperature: τ.
        weights: None; or S, (B, classes), for the derivative along v of the teacher's own loss KL(S ‖ T) instead, which
            the released code of LGTM takes: −(1/B) Σ_i Σ_c S_ic ∂_v log S_ic log T_ic. They agree where S = T.
    """
    logits = teacher.outputs(inputs, training=False).logits / temperature
    terms = along * F.softmax(logits, -1) if weights is None else weights * along * F.log_softmax(logits, -1)
    return teacher.gradient(-terms.sum(-1).mean())
