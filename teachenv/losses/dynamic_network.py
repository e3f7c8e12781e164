"""A loss that is a network: L2T-DLN's (Hai et al. 2023), as their released code has it."""

from __future__ import annotations

import functools
import importlib.resources
import math
from collections.abc import Callable
from typing import Literal, get_args

import safetensors.torch
import torch
from torch.nn import functional as F

from teachenv import checks
from teachenv.losses.base import LossFamily
from teachenv.randomness import Purpose, torch_seed
from teachenv.students.prediction import Prediction

SIZES = (4, 40, 40, 40, 40, 1)
"""Units of each layer."""

SHAPES = tuple(zip(SIZES[1:], SIZES[:-1], strict=True))
"""(out, in) of each layer's weights; there are no biases."""

WEIGHTS = sum(rows * columns for rows, columns in SHAPES)
"""Number of all weights: 5,000."""

Initial = Literal["cross-entropy", "zero-one", "random"]
Imitated = Literal["cross-entropy", "zero-one"]
Scale = Literal["pairs", "rows"]
Activation = Literal["leaky-relu", "leaky-swish"]

_SLOPE = 0.01
_SHARPNESS = 5.0
_GRID = 21
_IMITATION = "dynamic_network.safetensors"


def evaluate(weights: torch.Tensor, rows: torch.Tensor, activation: Activation = "leaky-relu") -> torch.Tensor:
    """The values of the loss network f_φ at rows.

    Args:
        weights: φ, (5000,): the layers' weights one after the other, each as `torch.nn.Linear` has them.
        rows: inputs of the loss network, (..., 4).
        activation: the network's activation, as in `DynamicNetwork`.

    Returns:
        (...). A row of zeros gives exactly 0, since there are no biases.
    """
    layers = torch.split(weights, [out * of for out, of in SHAPES])
    for number, (layer, shape) in enumerate(zip(layers, SHAPES, strict=True)):
        rows = F.linear(rows, layer.view(shape))
        if number < len(SHAPES) - 1:
            if activation == "leaky-relu":
                rows = F.leaky_relu(rows, _SLOPE)
            else:
                rows = rows * (_SLOPE + (1 - _SLOPE) * torch.sigmoid(_SHARPNESS * rows))
    return rows.squeeze(-1)


def one_against_one(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The rows of a minibatch, (batch, C, 4): [σ(z_y), σ(z_k), 1, 0] for class k ≠ y, and zeros for y itself.

    Args:
        outputs: logits z, (batch, C).
        targets: classes y, (batch,).
    """
    is_target = torch.arange(outputs.shape[1], device=outputs.device) == targets.unsqueeze(1)
    squashed = torch.sigmoid(outputs)
    right = squashed.gather(1, targets.unsqueeze(1)).expand_as(squashed)
    ones = torch.ones_like(squashed)
    rows = torch.stack([right, squashed, ones, torch.zeros_like(squashed)], -1)
    return rows * (~is_target).unsqueeze(-1).to(rows.dtype)


def initial_weights(initial: Initial, seed: int = 0, activation: Activation = "leaky-relu") -> torch.Tensor:
    """The weights φ₀ that the network begins with, (5000,) in float32.

    Args:
        initial: `"cross-entropy"`: fitted to the cross-entropy of two classes, softplus(z_k − z_y); see `imitate`.
            `"zero-one"`: fitted to σ(z_k − z_y), the probability that the other class wins: it is bounded, so that no
            wrong label counts for much (ours; like other bounded losses it wants larger learning rates). `"random"`:
            Kaiming's normal distribution by the units that a layer leads to, as the released code has it; a loss whose
            direction is arbitrary at first.
        seed: seed of the random one.
        activation: the activation that it is fitted for.
    """
    if initial != "random":
        return _fitted()[f"{initial}/{activation}"].clone()
    with torch_seed(seed, Purpose.INIT):
        gain = torch.nn.init.calculate_gain("leaky_relu", _SLOPE)
        drawn = [torch.randn(shape) * gain / math.sqrt(shape[0]) for shape in SHAPES]
    return torch.cat([layer.flatten() for layer in drawn])


@functools.cache
def _fitted() -> dict[str, torch.Tensor]:
    file = importlib.resources.files("teachenv.losses").joinpath(_IMITATION)
    return safetensors.torch.load(file.read_bytes())


_WANTED: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"cross-entropy": F.softplus, "zero-one": torch.sigmoid}
"""Losses of a pair, by the difference z_k − z_y."""


def imitate(
    wanted: Imitated,
    weights: torch.Tensor,
    steps: int = 15_000,
    seed: int = 0,
    activation: Activation = "leaky-relu",
) -> torch.Tensor:
    """Fits f_φ to a loss of two classes, in value and in slope along both logits; Adam, decaying rate.

    The file of this package is what comes of `initial_weights("random")` in float64. For logits within ±2 its slopes
    point where the imitated loss's do (cosine 0.998 with cross-entropy's, 0.993 with the bounded one's), within ±4 less
    so (0.98 with cross-entropy's): the network sees σ(z), which is flat where cross-entropy of a confident error is
    not.

    Args:
        wanted: the loss that is imitated.
        weights: weights φ to begin with.
        steps: how many steps, each on 512 pairs of logits, normal with a standard deviation of 2.
        seed: seed of the logits.
        activation: the network's activation.
    """
    phi = weights.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([phi], lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    targets = torch.zeros(512, dtype=torch.long)
    with torch_seed(seed, Purpose.BATCHES):
        for _ in range(steps):
            logits = (2 * torch.randn(512, 2, dtype=phi.dtype)).requires_grad_()
            learned = evaluate(phi, one_against_one(logits, targets), activation).sum(1)
            values = _WANTED[wanted](logits[:, 1] - logits[:, 0])
            (slope,) = torch.autograd.grad(learned.sum(), logits, create_graph=True)
            (right,) = torch.autograd.grad(values.sum(), logits)
            (phi.grad,) = torch.autograd.grad(F.mse_loss(learned, values.detach()) + F.mse_loss(slope, right), phi)
            optimizer.step()
            schedule.step()
    return phi.detach()


class DynamicNetwork(LossFamily):
    """l = (1/B) Σ_i (1/(C − 1)) Σ_{k≠y} f_φ(σ(z_y), σ(z_k), 1, 0) with φ = φ₀ + scale · a.

    f is a network 4-40-40-40-40-1 with LeakyReLU and without biases, of 5,000 weights whatever the number of classes; C
    is the number of classes, z the logits. The zero action is the fixed loss of φ₀. An action is how far φ is from φ₀,
    not from where the last one left it: a student's step depends on its state and the action alone.

    The paper's full text was not to be had; rows, network and sigmoid are the released code's. Its mean is over all C
    rows, the one of zeros among them, which makes the loss C/(C − 1) times smaller than a pair's (`per="rows"`); in
    both the slope along one wrong class's logit falls as 1/C, where that of cross-entropy does so for a new student
    only.

    Args:
        scale: γ, how far the box reaches.
        initial: φ₀; see `initial_weights`.
        seed: seed of a random φ₀, and only of it; None: 0.
        per: what the mean is over: `"pairs"` of the label with another class, or `"rows"`.
        activation: between the layers: `"leaky-relu"`, the released code's, or `"leaky-swish"` (ours), x times
            0.01 + 0.99 sigmoid(5x). The gradient that a student gets from a piecewise linear network jumps as φ moves,
            and what a teacher differentiates does not see the jumps; of the smooth one it is all there is.
    """

    coefficient_label = "loss (row: label's σ, column: class's)"
    reads = ("labels",)

    def __init__(
        self,
        scale: float = 0.1,
        initial: Initial = "cross-entropy",
        seed: int | None = None,
        per: Scale = "pairs",
        activation: Activation = "leaky-relu",
    ) -> None:
        self.scale = checks.number("scale", scale, above=0)
        checks.choice("initial", initial, get_args(Initial))
        checks.choice("per", per, get_args(Scale))
        checks.choice("activation", activation, get_args(Activation))
        if seed is not None and initial != "random":
            raise ValueError(f'seed={seed!r} has no effect with initial={initial!r}: it is of initial="random"')
        self.per, self.activation = per, activation
        self.initial = initial_weights(initial, 0 if seed is None else checks.integer("seed", seed, 0), activation)

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        """One number for each weight of the network, 5,000."""
        return WEIGHTS

    def __call__(self, action: torch.Tensor, prediction: Prediction, targets: torch.Tensor) -> torch.Tensor:
        """The mean over the minibatch's pairs."""
        outputs = prediction.outputs
        phi = self.initial.to(outputs) + self.scale * action
        each = outputs.shape[1] - (self.per == "pairs")
        return prediction.mean(evaluate(phi, one_against_one(outputs, targets), self.activation).sum(1) / each)

    def coefficients(self, action: torch.Tensor) -> torch.Tensor:
        """f_φ(u_y, u_k, 1, 0) for u_y (rows) and u_k (columns) from 0 to 1, (21, 21)."""
        u = torch.linspace(0, 1, _GRID, dtype=action.dtype, device=action.device)
        right, wrong = torch.meshgrid(u, u, indexing="ij")
        rows = torch.stack([right, wrong, torch.ones_like(right), torch.zeros_like(right)], -1)
        return evaluate(self.numbers(action), rows, self.activation)

    def numbers(self, action: torch.Tensor) -> torch.Tensor:
        """The weights φ, (5000,)."""
        return self.initial.to(action) + self.scale * action
