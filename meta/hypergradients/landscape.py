"""Whether the gradient of a training run is of use, and up to which step: measured before a teacher is trained.

A hypergradient is the derivative at one point. A teacher steps along the mean of several students' gradients, and gains
what the derivative says only as far as J is straight. Where a training run is chaotic (long, at a high learning rate)
or its step has kinks, J along that line is something else: the derivative may be exact and of no use. Measured are, at
the neutral action, of training runs that a teacher would learn from:

* the mean change of J along the mean gradient and along a random direction, at several radii, beside what the
  derivative predicts. The *usable radius* is the largest one up to which the change along the gradient has between half
  and twice its prediction. Radii are root mean squares over an action's coordinates;
* how the gradient grows towards the first actions, ‖dJ/da_t‖ over t: that of a chaotic training by powers of ten;
* jumps: the part of J's change over the smallest radius that the derivatives on the way do not account for. Where J is
  continuous there is none. Where an input crosses a kink of the loss or of the student, a step along its gradient
  jumps, and the derivative leaves the jump out;
* agreement: the cosine between the gradients of two halves of the students.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch

from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.repairs import repairs_of
from meta.hypergradients.training import Training
from teachenv import checks
from teachenv.control import AUGMENTATION
from teachenv.env import TeachEnv
from teachenv.experiment.progress import bar
from teachenv.plot.gradients import smoothness as drawn
from teachenv.vector_env import TeachVectorEnv

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RADII = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
"""The radii that are tried: root mean squares of the changes of an action's coordinates."""

LAST = "the last actions' gradient alone"

_LEAST, _MOST = 0.5, 2.0  # of change over prediction, within which a radius is usable
_CHAOTIC, _STEADY = 100.0, 10.0  # of an action's gradient over that of late ones
_JUMPS, _FEW_JUMPS = 0.5, 0.02
_DISAGREE = 0.1
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(4)


@dataclass(frozen=True, eq=False)
class Smoothness:
    """What `smoothness` measured.

    Attributes:
        radii: root mean squares of the changes of actions, ascending.
        predicted: by the derivative, the change of J along the mean gradient, (radii,).
        changed: the change itself, the mean over students, (radii,).
        predicted_random: the prediction along a random direction, (radii,).
        changed_random: the change along it, (radii,).
        norms: root mean square of dJ/da_t over students and coordinates, (actions,).
        jumps: the part of the change over the smallest radius that no derivative accounts for, from 0 to 1.
        agreement: the cosine between the gradients of two halves of the students.
        steps_per_action: student steps under each action.
        rounding: of J; changes that are smaller say nothing.
        repairs: the usable radius with one thing changed, by what is changed; empty: none was tried.
    """

    radii: np.ndarray
    predicted: np.ndarray
    changed: np.ndarray
    predicted_random: np.ndarray
    changed_random: np.ndarray
    norms: np.ndarray
    jumps: float
    agreement: float
    steps_per_action: int
    rounding: float
    repairs: Mapping[str, float]

    @property
    def radius(self) -> float:
        """The usable radius; 0: not even the smallest of `radii` is usable."""
        return _usable(self.radii, _Changes(self.predicted, self.changed, self.rounding))

    @property
    def usable(self) -> bool:
        """Whether any step that was tried is one that the gradient is good for."""
        return self.radius > 0

    @property
    def growth(self) -> float:
        """The largest gradient of an action over the median of those of the last quarter."""
        late, largest = _late(self.norms), float(self.norms.max())
        return largest / late if late > 0 else np.inf if largest > 0 else 1.0

    @property
    def last_steps(self) -> int:
        """The student steps under those last actions whose gradients are within a factor of ten of the late ones."""
        return _steady(self.norms) * self.steps_per_action

    @property
    def verdict(self) -> str:
        """In words, whether the gradient is usable, up to which step, and what helps."""
        lines = [self._cause()]
        if self.usable and self.jumps > _FEW_JUMPS:
            lines.append(f"{100 * self.jumps:.0f} % of J's change are jumps: the loss or the student has kinks.")
        if self.usable and self.agreement < _DISAGREE:
            lines.append(
                f"The students' gradients hardly agree (cosine of two halves {self.agreement:.2f}): take the mean over "
                "more of them (num_envs or students_per_update)."
            )
        better = {name: radius for name, radius in self.repairs.items() if radius > self.radius}
        if better:
            each = ", ".join(f"{name} {radius:g}" for name, radius in sorted(better.items(), key=lambda pair: -pair[1]))
            lines.append(f"Usable steps with one thing changed: {each}.")
        elif self.repairs and self.radius < self.radii[-1]:
            lines.append(f"None of these helps: {', '.join(self.repairs)}.")
        return "\n".join(lines)

    def _cause(self) -> str:
        if self.usable:
            return f"Usable for steps of up to {self.radius:g} in each coordinate of the action."
        if not self.norms.any():
            return "Not usable: the gradient is zero; the students' outputs are saturated, or J does not see actions."
        if np.isfinite(self.norms).all() and _LEAST * self.predicted[-1] <= 2 * self.rounding:
            return (
                f"Not usable: within {self.radii[-1]:g} J changes by less than its rounding, {self.rounding:.0e}; a "
                "larger learning rate or more steps let actions count, and dtype='float64' rounds less."
            )
        if not np.isfinite(self.norms).all() or self.growth > _CHAOTIC:
            return (
                f"Not usable: the gradient grows {self.growth:.0e} times towards early actions, so the training is "
                f"chaotic. Only the gradients of its last {self.last_steps} steps are of similar size."
            )
        if self.jumps > _JUMPS:
            return (
                f"Not usable: {100 * self.jumps:.0f} % of J's change are jumps that no derivative sees. The loss or "
                "the student has kinks."
            )
        return (
            f"Not usable: within {self.radii[0]:g}, the smallest step that was tried, J does not change as its "
            "derivative says."
        )

    def __str__(self) -> str:
        """The verdict and the numbers behind it."""
        rows = [f"{'step':>8} {'predicted':>11} {'changed':>11} {'random: predicted':>18} {'changed':>11}"]
        columns = (self.radii, self.predicted, self.changed, self.predicted_random, self.changed_random)
        for r, *values in zip(*columns, strict=True):
            predicted, changed, predicted_random, changed_random = (f"{value:.2e}" for value in values)
            rows.append(f"{r:8g} {predicted:>11} {changed:>11} {predicted_random:>18} {changed_random:>11}")
        numbers = f"growth {self.growth:.2g}, jumps {self.jumps:.2f}, agreement {self.agreement:.2f}"
        return "\n".join([self.verdict, "", *rows, numbers])

    def plot(self) -> Figure:
        """A figure: predicted and real change of J over the radii, and the size of dJ/da_t over the training."""
        lines = {
            "along the gradient": (self.predicted, self.changed),
            "in a random direction": (self.predicted_random, self.changed_random),
        }
        steps = np.arange(len(self.norms)) * self.steps_per_action
        return drawn(self.radii, lines, steps, self.norms, usable=self.radius)


def smoothness(
    env: gym.Env[Any, Any] | TeachVectorEnv | str,
    *,
    students: int = 8,
    radii: Sequence[float] = RADII,
    seed: int = 0,
    repairs: bool | None = None,
) -> Smoothness:
    """Measures, on training runs under small actions, how far J is as its gradient says.

        report = meta.smoothness(gym.make("TeachDigits-v0", lr_schedule="linear"))
        print(report.verdict)
        teachenv.plot.save(report.plot(), "smoothness")

    Its cost is that of some thirty training runs of so many students, and of ten more for each repair.

    Args:
        env: an environment that a teacher would learn on, or its id; it stays as it is.
        students: how many are trained, with seeds from `seed` on; at least two.
        radii: root mean squares of the changes of actions that are tried, ascending, at most 1.
        seed: the first student's.
        repairs: whether to measure again with one thing changed, each by itself: a quarter of the learning rate, a
            linear schedule, a quarter of the steps, five times the temperature of the smoothed accuracy, smooth
            activations, group norm in the place of batch norm, and the last actions' gradient alone; as far as the
            environment has them. None: if the gradient is not usable.

    Raises:
        TypeError: no teaching environment.
        ValueError: fewer than two students, radii that do not ascend from above 0, or actions that set the
            augmentation.
    """
    checks.integer("students", students, least=2)
    sizes = np.asarray(radii, dtype=float)
    if sizes.ndim != 1 or not len(sizes) or not (np.diff(sizes, prepend=0) > 0).all() or not sizes[-1] <= 1:
        raise ValueError(f"found radii={radii!r}, expected numbers that ascend, above 0 and at most 1")
    teach = (gym.make(env) if isinstance(env, str) else env).unwrapped
    if not isinstance(teach, TeachEnv | TeachVectorEnv):
        raise TypeError(f"found {type(teach).__name__}, expected a TeachEnv, a TeachVectorEnv or a registered id")
    settings = dict(vars(teach.problem.settings))
    if AUGMENTATION in teach.problem.settings.control:
        raise ValueError(
            f"found control={teach.problem.settings.control}: J is a step function of 'augmentation', and its gradient "
            "that of the expected step, so they cannot be compared; leave 'augmentation' out, the neutral training is "
            "the same without it"
        )
    trainings = _Trainings(TeachVectorEnv(students, defaults=settings), seed)
    with bar("smoothness", 2 * len(sizes) + len(_POINTS) + 1) as done:
        gradient = trainings.gradient()
        done()
        measured = _measured(trainings, gradient, sizes, done)
    if repairs is False or (repairs is None and measured.usable):
        return measured
    tried: dict[str, float] = {}
    changes_of = repairs_of(teach.problem)
    with bar("repairs", len(changes_of) + 1) as done:
        if (last := _steady(measured.norms)) < len(measured.norms):
            late = gradient.clone()
            late[: len(late) - last] = 0
            tried[LAST] = _usable(sizes, _along(trainings, late, _mean_direction(late), sizes))
        for name, changes in changes_of.items():
            done()
            repaired = _Trainings(TeachVectorEnv(students, defaults={**settings, **changes}), seed)
            gradient = repaired.gradient()
            tried[name] = _usable(sizes, _along(repaired, gradient, _mean_direction(gradient), sizes))
    return replace(measured, repairs=tried)


class _Trainings:
    """Some students' training runs as functions of their actions, (actions, students, n)."""

    def __init__(self, env: TeachVectorEnv, seed: int) -> None:
        env.reset(seed=seed)
        self.env, self.per_action = env, env.problem.settings.steps_per_action
        neutral = env.problem.neutral_action
        self.neutral = neutral.expand(env.problem.actions, env.num_envs, -1)

    def gradient(self, by: torch.Tensor | None = None) -> torch.Tensor:
        """dJ/da of each student with its actions moved by something, in float64."""
        process = Training(self.env.dynamics, self.env.episodes)
        actions = list(self._moved(by))
        result = hypergradient(process, self.env.students, actions, steps_per_action=self.per_action)
        return result.actions.double()

    @cached_property
    def plain(self) -> torch.Tensor:
        """J of each student under the neutral action, (students,), in float64."""
        return self.objective(torch.zeros_like(self.neutral))

    def objective(self, by: torch.Tensor) -> torch.Tensor:
        """J of each student with its actions moved by something, (students,), in float64."""
        dynamics, episodes, students = self.env.dynamics, self.env.episodes, self.env.students
        for action in self._moved(by):
            for _ in range(self.per_action):
                students, _ = dynamics.step(students, episodes, action)
        with torch.no_grad():
            return dynamics.objective(students, episodes).double()

    def _moved(self, by: torch.Tensor | None) -> torch.Tensor:
        # Steps are small beside the box, whose sides the loss family bounds actions by anyway.
        return self.neutral if by is None else self.neutral + by.to(self.neutral.dtype)


class _Changes(NamedTuple):
    """The predicted and the real mean change of J, each (radii,), and the rounding of J."""

    predicted: np.ndarray
    changed: np.ndarray
    rounding: float


def _measured(trainings: _Trainings, gradient: torch.Tensor, sizes: np.ndarray, done: Callable[[], None]) -> Smoothness:
    direction = _mean_direction(gradient)
    generator = torch.Generator().manual_seed(0)
    coin = torch.randint(2, direction.shape, generator=generator).to(direction) * 2 - 1
    along, random = (_along(trainings, gradient, d, sizes, done) for d in (direction, coin))
    smallest = float(sizes[0])
    integral = 0.0
    for point, weight in zip(_POINTS, _WEIGHTS, strict=True):
        slope = (trainings.gradient(direction * (smallest * (point + 1) / 2)) * direction).sum((0, 2)).mean()
        integral += float(slope) * smallest * weight / 2
        done()
    change = float(along.changed[0])
    whole = abs(change) + abs(integral)
    jump = max(0.0, abs(change - integral) - along.rounding)
    half = gradient.shape[1] // 2
    one, other = (part.mean(1).flatten() for part in (gradient[:, :half], gradient[:, half:]))
    return Smoothness(
        radii=sizes,
        predicted=along.predicted,
        changed=along.changed,
        predicted_random=random.predicted,
        changed_random=random.changed,
        norms=gradient.square().mean((1, 2)).sqrt().cpu().numpy(),
        jumps=float(min(1.0, jump / whole)) if np.isfinite(whole) and whole > 0 else 0.0,
        agreement=float(torch.nn.functional.cosine_similarity(one, other, dim=0)),
        steps_per_action=trainings.per_action,
        rounding=along.rounding,
        repairs={},
    )


def _mean_direction(gradient: torch.Tensor) -> torch.Tensor:
    """The students' mean gradient, (actions, 1, n), with a root mean square of 1."""
    mean = gradient.mean(1, keepdim=True)
    size = mean.square().mean().sqrt()
    return mean / size if size > 0 else mean


def _along(
    trainings: _Trainings,
    gradient: torch.Tensor,
    direction: torch.Tensor,
    sizes: np.ndarray,
    done: Callable[[], None] = lambda: None,
) -> _Changes:
    """The mean changes of J along a direction, (actions, 1, n)."""
    slope = float((gradient * direction).sum((0, 2)).mean())
    plain = trainings.plain.mean()
    changed = []
    for radius in sizes:
        changed.append(float(trainings.objective(direction * float(radius)).mean() - plain))
        done()
    eps = torch.finfo(trainings.neutral.dtype).eps
    return _Changes(sizes * slope, np.array(changed), eps * max(abs(float(plain)), eps))


def _usable(radii: np.ndarray, along: _Changes) -> float:
    """The largest radius up to which the change is between half and twice its prediction; 0: there is none.

    Changes may be off by twice the rounding of J; of a radius whose prediction is not beyond that, larger ones decide.
    """
    slack = 2 * along.rounding
    least, most = _LEAST * along.predicted, _MOST * along.predicted
    passed = (along.changed >= least - slack) & (along.changed <= most + slack)
    count = len(passed) if passed.all() else int(np.argmin(passed))
    return float(radii[count - 1]) if (least[:count] > slack).any() else 0.0


def _late(norms: np.ndarray) -> float:
    return float(np.median(norms[-max(1, len(norms) // 4) :]))


def _steady(norms: np.ndarray) -> int:
    """How many actions at the end have gradients within a factor of ten of the late ones; at least one."""
    large = np.flatnonzero(~(norms <= _STEADY * _late(norms)))
    return max(1, len(norms) - 1 - int(large[-1])) if len(large) else len(norms)
