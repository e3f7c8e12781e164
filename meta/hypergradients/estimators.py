"""Estimates of a gradient that no reverse walk through the training is made for.

They are of dJ/da for one action a that all T steps share: what `hypergradient(process, x_0, [a], steps_per_action=T)`
is exactly, and its methods `"truncated"`, `"finite-difference"` and `"forward"` (FDS: Micaelli & Storkey 2021,
arXiv 2007.07869) in their ways. Those of this module know the process by its steps alone, or by its last state.

Zeroth order, from N training runs under actions a + σε with ε ~ N(0, 1). Each is an unbiased estimate of the gradient
of E J(a + σε), not of J: they differ by what σ smooths over. Training is cut into windows; r_w is the increase of J
over window w, so that Σ_w r_w = J(x_T) − J(x_0), and ± marks the two training runs of an antithetic pair.

    `evolution_strategies`: ε (J⁺ − J⁻) / 2σ, one ε for the whole of a training run.
    `persistent_evolution_strategies` (PES, Vicol et al. 2021, arXiv 2112.13835): Σ_w ξ_w (r_w⁺ − r_w⁻) / 2σ with a new
        ε_w in each window and ξ_w = ε_1 + … + ε_w. A learner may update after each window; the variance grows with
        their number.
    `noise_reuse_evolution_strategies` (NRES, Li et al. 2023, arXiv 2304.12180): W ε (r_w⁺ − r_w⁻) / 2σ of one of W
        windows w, with one ε for the whole training run. The mean over all windows is `evolution_strategies`. What is
        gained is an update every window, by training runs that are each at another window.
    `reinforce` (Williams 1992): Σ_w ε_w (R_w − b_w) / σ with a new ε_w in each window, R_w what J increases from there
        to the end, and b_w the mean of the other training runs' R_w. Without pairs.

With one window, PES and NRES are `evolution_strategies`.

    `implicit`: the training is taken for converged, x* = Φ(x*, a), and dJ/da = (∂Φ/∂a)ᵀ (I − ∂Φ/∂x)⁻ᵀ ∂J/∂x. The
        inverse by Neumann's series (Lorraine et al. 2020, arXiv 1911.02590) or conjugate gradients (Pedregosa 2016,
        arXiv 1602.02355). What lies before the last state is not asked for, and no memory is needed; how wrong that is
        depends on how far the training is from its end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch

from meta.hypergradients.process import Process, PureProcess, as_process, double_backward_kernels
from teachenv import checks
from teachenv.errors import unknown_name
from teachenv.state import StudentState
from teachenv.trees import tensors_of, with_tensors

Solver = Literal["neumann", "conjugate-gradients"]


@dataclass(frozen=True)
class Estimates:
    """Estimates of one gradient, and what they cost.

    Attributes:
        samples: (samples, n), each an estimate by itself; their mean is the best.
        student_steps: the student steps that count, of all samples together.
    """

    samples: torch.Tensor
    student_steps: int

    @property
    def mean(self) -> torch.Tensor:
        """The mean of the samples, (n,)."""
        return self.samples.mean(0)


def evolution_strategies(
    process: Process | PureProcess,
    initial: Any,
    action: torch.Tensor,
    steps: int,
    *,
    pairs: int,
    sigma: float = 0.1,
    generator: torch.Generator | None = None,
) -> Estimates:
    """Estimates dJ/da from pairs of whole training runs, a sample from each pair.

    Args:
        process: as for `meta.hypergradient`.
        initial: x_0; of a batch of 2 × `pairs` students, which then train at once, those of a = + before those of −.
        action: a, (n,).
        steps: T.
        pairs: the number of antithetic pairs.
        sigma: σ, how far actions are moved.
        generator: draws ε; None: PyTorch's own.

    Raises:
        ValueError: a number out of its range, or a batch of another size.
    """
    return persistent_evolution_strategies(
        process, initial, action, steps, window=steps, pairs=pairs, sigma=sigma, generator=generator
    )


def persistent_evolution_strategies(
    process: Process | PureProcess,
    initial: Any,
    action: torch.Tensor,
    steps: int,
    *,
    window: int,
    pairs: int,
    sigma: float = 0.1,
    generator: torch.Generator | None = None,
) -> Estimates:
    """Estimates dJ/da with new noise in each window (PES), a sample from each pair of training runs.

    Args:
        process: as for `meta.hypergradient`.
        initial: x_0, as for `evolution_strategies`.
        action: a, (n,).
        steps: T.
        window: the steps of a window.
        pairs: the number of antithetic pairs.
        sigma: σ, how far actions are moved.
        generator: draws ε; None: PyTorch's own.

    Raises:
        ValueError: a number out of its range, or a batch of another size.
    """
    noise = _noise(action, _windows(steps, window), pairs, generator)
    values = _values(process, initial, action + sigma * torch.cat([noise, -noise], 1), steps, window, sigma)
    plus, minus = values.diff(dim=0).chunk(2, 1)
    samples = (noise.cumsum(0) * (plus - minus)[..., None]).sum(0) / (2 * sigma)
    return Estimates(samples, 2 * pairs * steps)


def noise_reuse_evolution_strategies(
    process: Process | PureProcess,
    initial: Any,
    action: torch.Tensor,
    steps: int,
    *,
    window: int,
    pairs: int,
    sigma: float = 0.1,
    generator: torch.Generator | None = None,
) -> Estimates:
    """Estimates dJ/da from one window of each pair of training runs, drawn at random (NRES), a sample from each pair.

    The steps outside the windows are taken, since the training runs have to get there, and are not counted: a learner
    uses each window for an update of its own.

    Args:
        process: as for `meta.hypergradient`.
        initial: x_0, as for `evolution_strategies`.
        action: a, (n,).
        steps: T.
        window: the steps of a window.
        pairs: the number of antithetic pairs.
        sigma: σ, how far actions are moved.
        generator: draws ε and the windows; None: PyTorch's own.

    Raises:
        ValueError: a number out of its range, or a batch of another size.
    """
    windows = _windows(steps, window)
    noise = _noise(action, 1, pairs, generator).expand(windows, -1, -1)
    values = _values(process, initial, action + sigma * torch.cat([noise, -noise], 1), steps, window, sigma)
    plus, minus = values.diff(dim=0).chunk(2, 1)
    drawn = torch.randint(windows, (1, pairs), generator=generator).to(action.device)
    of_window = (plus - minus).gather(0, drawn)[0, :, None]
    return Estimates(windows * noise[0] * of_window / (2 * sigma), 2 * pairs * min(window, steps))


def reinforce(
    process: Process | PureProcess,
    initial: Any,
    action: torch.Tensor,
    steps: int,
    *,
    window: int,
    rollouts: int,
    sigma: float = 0.1,
    generator: torch.Generator | None = None,
) -> Estimates:
    """Estimates dJ/da from training runs whose actions are drawn around a anew in each window, a sample from each.

    Args:
        process: as for `meta.hypergradient`.
        initial: x_0; of a batch of as many students as rollouts, which then train at once.
        action: a, (n,).
        steps: T.
        window: the steps of a window.
        rollouts: the number of training runs, at least 2.
        sigma: σ, the standard deviation of actions.
        generator: draws ε; None: PyTorch's own.

    Raises:
        ValueError: a number out of its range, or a batch of another size.
    """
    checks.integer("rollouts", rollouts, least=2)
    noise = _noise(action, _windows(steps, window), rollouts, generator)
    values = _values(process, initial, action + sigma * noise, steps, window, sigma)
    to_come = values[-1] - values[:-1]
    others = (to_come.sum(1, keepdim=True) - to_come) / (rollouts - 1)
    samples = (noise * (to_come - others)[..., None]).sum(0) / sigma
    return Estimates(samples, rollouts * steps)


def implicit(
    process: Process | PureProcess, state: Any, action: torch.Tensor, *, terms: int, solver: Solver = "neumann"
) -> Estimates:
    """Estimates dJ/da at a state that is taken for a fixed point of the process's step, step 0.

    Args:
        process: its step Φ should be one on all samples: with minibatches there is no fixed point.
        state: the last state of a training run, as the process takes it.
        action: a, (n,).
        terms: terms of the series, or iterations: each takes one adjoint of the step.
        solver: `"neumann"`: Σ_k (∂Φ/∂x)ᵏᵀ ∂J/∂x, which converges where Φ contracts; `"conjugate-gradients"`: for
            gradient descent without momentum, whose I − ∂Φ/∂x = ηH is symmetric. They end early where the curvature is
            not positive.

    Raises:
        ValueError: an unknown solver, or less than one term.
    """
    process = as_process(process)
    checks.integer("terms", terms, least=1)
    if isinstance(state, StudentState):
        state = replace(state, step=state.step * 0)  # after the last one there is none
    if solver not in get_args(Solver):
        raise unknown_name("solver", solver, get_args(Solver))
    with double_backward_kernels():
        template = process.finished(process.value(state)[1])

        def back(vector: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            cotangent, of_action = process.pullback(state, action, 0, with_tensors(template, _split(vector, template)))
            return _flat(process.finished(cotangent)), of_action.to_dense()

        solve = _neumann if solver == "neumann" else _conjugate_gradients
        gradient, taken = solve(back, _flat(template), terms)
    return Estimates(gradient[None], taken)


def _neumann(back: Any, vector: torch.Tensor, terms: int) -> tuple[torch.Tensor, int]:
    total = None
    for _ in range(terms):
        vector, of_action = back(vector)
        total = of_action if total is None else total + of_action
    assert total is not None
    return total, terms


def _conjugate_gradients(back: Any, vector: torch.Tensor, terms: int) -> tuple[torch.Tensor, int]:
    solution, residual = torch.zeros_like(vector), vector
    direction, size = residual, residual @ residual
    taken = 0
    while taken < terms - 1 and size > 0:
        product, taken = direction - back(direction)[0], taken + 1
        curvature = direction @ product
        if not curvature > 0:
            break
        solution = solution + size / curvature * direction
        residual = residual - size / curvature * product
        before, size = size, residual @ residual
        direction = residual + size / before * direction
    if not solution.any():
        solution = vector
    return back(solution)[1], taken + 1


def _flat(tree: Any) -> torch.Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors_of(tree)])


def _split(vector: torch.Tensor, template: Any) -> list[torch.Tensor]:
    tensors = tensors_of(template)
    parts = torch.split(vector, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _windows(steps: int, window: int) -> int:
    checks.integer("steps", steps, least=1)
    return -(-steps // checks.integer("window", window, least=1))


def _noise(action: torch.Tensor, windows: int, trainings: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draws ε, (windows, training runs, n)."""
    checks.integer("pairs", trainings, least=1)
    if action.dim() != 1:
        raise ValueError(
            f"found an action of shape {tuple(action.shape)}, expected (n,): flatten it, and let the process's step "
            "give it its shape"
        )
    shape = windows, trainings, *action.shape
    return torch.randn(shape, generator=generator, dtype=action.dtype).to(action.device)


def _values(
    process: Process | PureProcess, initial: Any, actions: torch.Tensor, steps: int, window: int, sigma: float
) -> torch.Tensor:
    """Trains under actions, (windows, training runs, n).

    Returns:
        J before each window and at the end, (windows + 1, training runs).
    """
    process = as_process(process)
    checks.number("sigma", sigma, above=0)

    def followed(actions: torch.Tensor) -> torch.Tensor:
        state, values = initial, [process.value(initial)[0]]
        for t in range(steps):
            state = process.step(state, actions[t // window], t)
            if (t + 1) % window == 0 or t + 1 == steps:
                values.append(process.value(state)[0])
        return torch.stack(values)

    trainings, batch = actions.shape[1], process.batch(initial)
    if not batch:
        return torch.stack([followed(actions[:, i]) for i in range(trainings)], 1)
    if batch != (trainings,):
        raise ValueError(f"found a batch of {batch[0]} students, expected {trainings}, one for each training run")
    return followed(actions)
