"""Well-known losses without a teacher: functions of (prediction, targets) to one value a sample, shape (batch,)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.losses.base import weighted
from teachenv.students.prediction import Prediction
from teachenv.tasks.targets import TargetKind

if TYPE_CHECKING:
    from teachenv.tasks.base import Task

SampleLoss = Callable[[Prediction, torch.Tensor], torch.Tensor]

_TINY = 1e-12


def _pick(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The entry of each row at its target, values[i, targets[i]], shape (batch,)."""
    return values.gather(1, targets.unsqueeze(1)).squeeze(1)


def _is_target(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """One-hot targets as booleans, shape of `values` (F.one_hot does not run under vmap)."""
    return torch.arange(values.shape[1], device=values.device) == targets.unsqueeze(1)


def expected(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """What a row of `values` is for the sample's class: v_y of labels, (batch,), Σ_c q_c v_c of distributions.

    Args:
        values: (batch, C).
        targets: labels, (batch,), or distributions, (batch, C).
    """
    if not targets.is_floating_point():
        return _pick(values, targets)
    return weighted(targets, values).sum(1)


def cross_entropy(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, −log p_y; of distributions q over classes −Σ_c q_c log p_c."""
    # Picked by gather, since F.cross_entropy is slow under vmap; the gradient is bitwise F.cross_entropy's.
    return -expected(F.log_softmax(prediction.outputs, 1), targets)


def label_smoothing(prediction: Prediction, targets: torch.Tensor, *, epsilon: float = 0.1) -> torch.Tensor:
    """Cross-entropy to (1 − ε)·one-hot + ε·uniform (Szegedy et al. 2016), or to distributions smoothed likewise."""
    log_p = F.log_softmax(prediction.outputs, 1)
    uniform = torch.full_like(log_p, epsilon / log_p.shape[1])
    return -((1.0 - epsilon) * expected(log_p, targets) + weighted(uniform, log_p).sum(1))


def smooth_01(prediction: Prediction, targets: torch.Tensor, *, sharpness: float = 50.0) -> torch.Tensor:
    """−log σ(K (log p_y − max_{j≠y} log p_j)), L2T-DLF's "Smooth" baseline; the paper's K is 50.

    The paper says that it tends to the 0-1 loss as K grows. That is true of 1 − σ(K·margin), not after the logarithm,
    which grows without bound on errors; we follow the formula.
    """
    margin = _pick(prediction.outputs, targets) - prediction.outputs.masked_fill(
        _is_target(prediction.outputs, targets), -math.inf
    ).amax(1)
    return F.softplus(-sharpness * margin)


def large_margin(
    prediction: Prediction, targets: torch.Tensor, *, margin: int = 2, annealing: float = 1.0
) -> torch.Tensor:
    """Large-margin softmax (Liu et al. 2016): cross-entropy after ‖w_y‖‖x‖ cos θ_y gave way to ‖w_y‖‖x‖ ψ(θ_y).

    ψ(θ) = (−1)^k cos(mθ) − 2k for θ in [kπ/m, (k+1)π/m], with x the input of the last layer and w_y its row of the
    target. As in Liu et al.'s section 5.1 the target logit is the mixture (λ cos θ + ψ(θ)) / (1 + λ) with λ =
    `annealing`, which that paper lowers during training and we hold fixed. Their last layer has no bias; ours keeps its
    own, added to the logit unchanged.

    Args:
        prediction: with features and head weight.
        targets: class indices, (batch,).
        margin: m = 1 (plain softmax), 2, 3 or 4.
        annealing: λ ≥ 0.
    """
    assert prediction.features is not None
    assert prediction.head_weight is not None
    weight = prediction.head_weight.index_select(0, targets)
    # The +tiny keeps norms differentiable at 0, where a student of ReLUs can stand.
    scale = ((weight.square().sum(1) + _TINY) * (prediction.features.square().sum(1) + _TINY)).sqrt()
    cosine = ((weight * prediction.features).sum(1) / scale).clamp(-1.0, 1.0)
    shift = scale * (_psi(cosine, margin) - cosine) / (1.0 + annealing)
    logits = prediction.outputs + _is_target(prediction.outputs, targets) * shift.unsqueeze(1)
    return cross_entropy(Prediction(logits), targets)


def _psi(cosine: torch.Tensor, margin: int) -> torch.Tensor:
    """Liu et al.'s ψ as a function of cos θ, through the Chebyshev polynomial cos(mθ) = T_m(cos θ)."""
    previous, current = torch.ones_like(cosine), cosine
    for _ in range(margin - 1):
        previous, current = current, 2 * cosine * current - previous
    k = torch.zeros_like(cosine)
    for i in range(1, margin):
        k = k + (cosine < math.cos(i * math.pi / margin))
    return (1 - 2 * (k % 2)) * current - 2 * k


def focal(prediction: Prediction, targets: torch.Tensor, *, gamma: float = 2.0) -> torch.Tensor:
    """−(1 − p_y)^γ log p_y (Lin et al. 2017)."""
    log_p = _pick(F.log_softmax(prediction.outputs, 1), targets)
    return -((1.0 - log_p.exp()).clamp(min=_TINY) ** gamma) * log_p


def generalized_cross_entropy(prediction: Prediction, targets: torch.Tensor, *, q: float = 0.7) -> torch.Tensor:
    """(1 − p_y^q) / q (Zhang & Sabuncu 2018), between cross-entropy (q → 0) and mean absolute error (q = 1)."""
    return (1.0 - (q * _pick(F.log_softmax(prediction.outputs, 1), targets)).exp()) / q


def class_balanced(
    prediction: Prediction, targets: torch.Tensor, *, beta: float = 0.999, counts: Sequence[float] | None = None
) -> torch.Tensor:
    """α_y · (−log p_y), α_c ∝ (1 − β) / (1 − β^{n_c}), n_c samples of class c (Cui et al. 2019, eq. 2).

    As in that paper the α of the classes that there are have mean 1: not those of a minibatch's samples.

    Args:
        prediction: logits of C classes.
        targets: class indices, (batch,).
        beta: β in [0, 1); 0: no weights; towards 1: weights ∝ 1 / n_c. The paper tries 0.9 to 0.9999.
        counts: n_c, C numbers. None: those of the minibatch; an environment puts those of its pool there, as they are
            labelled.
    """
    if counts is None:
        n = targets.new_zeros(prediction.outputs.shape[1]).scatter_add(0, targets, torch.ones_like(targets)).double()
    else:
        n = torch.as_tensor(counts, dtype=torch.float64, device=targets.device)
    weights = torch.where(n > 0, (1.0 - beta) / (1.0 - beta**n), 0.0)
    weights = weights * (n > 0).sum() / weights.sum()
    return weights.to(prediction.outputs.dtype).index_select(0, targets) * cross_entropy(prediction, targets)


def brier(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """‖p − e_y‖², the squared error of the probabilities; of distributions q over classes ‖p − q‖²."""
    p = F.softmax(prediction.outputs, 1)
    given = targets if targets.is_floating_point() else _is_target(p, targets).to(p.dtype)
    return (p - given).square().sum(1)


def hinge(prediction: Prediction, targets: torch.Tensor, *, margin: float = 1.0) -> torch.Tensor:
    """max(0, margin + max_{j≠y} z_j − z_y) (Crammer & Singer 2001)."""
    z = prediction.outputs
    other = z.masked_fill(_is_target(z, targets), -math.inf).amax(1)
    return F.relu(margin + other - _pick(z, targets))


def _errors(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """Errors y − z of regression, (batch, outputs)."""
    return (targets.reshape(prediction.outputs.shape) - prediction.outputs).flatten(1)


def squared_error(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error over a sample's outputs, for regression."""
    return _errors(prediction, targets).square().mean(1)


def absolute_error(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """Mean absolute error over a sample's outputs, for regression."""
    return _errors(prediction, targets).abs().mean(1)


def huber(prediction: Prediction, targets: torch.Tensor, *, delta: float = 1.0) -> torch.Tensor:
    """Huber's loss (1964), for regression: ½ e² where |e| ≤ δ and δ (|e| − ½ δ) beyond, the mean over outputs."""
    error = _errors(prediction, targets).abs()
    # The square of what is clamped, so that no branch overflows.
    near = error.clamp(max=delta)
    return (0.5 * near.square() + delta * (error - near)).mean(1)


def quantile(prediction: Prediction, targets: torch.Tensor, *, level: float = 0.5) -> torch.Tensor:
    """The pinball loss max(α e, (α − 1) e), e = y − z, whose least value is the α-quantile (Koenker & Bassett 1978)."""
    error = _errors(prediction, targets)
    return torch.where(error > 0, level * error, (level - 1.0) * error).mean(1)


def binary_cross_entropy(prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
    """The mean over classes of −t log σ(z) − (1 − t) log σ(−z), for samples with several classes each."""
    z = prediction.outputs
    return (F.softplus(z) - targets * z).mean(1)


PLAIN_LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross-entropy": cross_entropy,
    "label-smoothing": label_smoothing,
    "smooth-01": smooth_01,
    "large-margin": large_margin,
    "focal": focal,
    "generalized-cross-entropy": generalized_cross_entropy,
    "class-balanced": class_balanced,
    "brier": brier,
    "hinge": hinge,
    "squared-error": squared_error,
    "absolute-error": absolute_error,
    "huber": huber,
    "quantile": quantile,
    "binary-cross-entropy": binary_cross_entropy,
}
_SOFT: tuple[TargetKind, ...] = ("labels", "distributions")
_NUMBERS: tuple[TargetKind, ...] = ("numbers",)
_READS: dict[str, tuple[TargetKind, ...]] = {
    "cross-entropy": _SOFT,
    "label-smoothing": _SOFT,
    "brier": _SOFT,
    "squared-error": _NUMBERS,
    "absolute-error": _NUMBERS,
    "huber": _NUMBERS,
    "quantile": _NUMBERS,
    "binary-cross-entropy": ("indicators",),
}
USUAL: dict[TargetKind, str] = {
    "labels": "cross-entropy",
    "numbers": "squared-error",
    "distributions": "cross-entropy",
    "indicators": "binary-cross-entropy",
}
"""The loss that each kind of targets is usually trained with."""


def usual_loss(task: Task) -> str:
    """The name of the loss that targets of the task's kind are usually trained with; of decisions that of labels."""
    numbers = task.decisions is None and task.pool[1].is_floating_point()
    return USUAL[task.target_kind or ("numbers" if numbers else "labels")]


def _counts(name: str, value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    counts = tuple(_AT_LEAST_ZERO(f"{name}[{c}]", n) for c, n in enumerate(checks.listed(name, value, "numbers")))
    if not any(counts):
        raise ValueError(f"{name} must have a class with samples, found {checks.shown(value)}")
    return counts


_AT_LEAST_ZERO = partial(checks.number, least=0)
_RANGES: dict[str, dict[str, Callable[[str, Any], Any]]] = {
    "label-smoothing": {"epsilon": partial(checks.number, least=0, most=1)},
    "smooth-01": {"sharpness": _AT_LEAST_ZERO},
    "large-margin": {"margin": partial(checks.integer, least=1, most=4), "annealing": _AT_LEAST_ZERO},
    "focal": {"gamma": _AT_LEAST_ZERO},
    "generalized-cross-entropy": {"q": partial(checks.number, above=0, most=1)},
    "class-balanced": {"beta": partial(checks.number, least=0, below=1), "counts": _counts},
    "hinge": {"margin": _AT_LEAST_ZERO},
    "huber": {"delta": partial(checks.number, above=0)},
    "quantile": {"level": partial(checks.number, above=0, below=1)},
}


def plain_options(name: str) -> list[str]:
    """The options of the named loss.

    Raises:
        ValueError: an unknown name.
    """
    if name not in PLAIN_LOSSES:
        raise unknown_name("loss", name, PLAIN_LOSSES)
    parameters = inspect.signature(PLAIN_LOSSES[name]).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]


def plain_loss(name: str, /, **options: Any) -> partial[torch.Tensor]:
    """The named loss with its options set.

    Raises:
        ValueError: an unknown name, or a value out of its range.
        TypeError: an unknown option.
    """
    checks.known_options(f"loss {name!r}", options, plain_options(name))
    function, ranges = PLAIN_LOSSES[name], _RANGES.get(name, {})
    return partial(function, **{option: ranges[option](option, value) for option, value in options.items()})


def reads(name: str) -> tuple[TargetKind, ...]:
    """The kinds of targets that the named loss is of, the usual one first."""
    return _READS.get(name, ("labels",))


def needs_head(name: str) -> bool:
    """Whether the named loss works on the last layer's weights and inputs."""
    return name == "large-margin"
