"""The study of estimators: every estimate of one gradient against the exact one, by the length of the training.

A perceptron on digits trains under one action, the weights of the ten classes, held for all T steps. Estimated is the
derivative of the dev objective with respect to it, at the neutral action. All compute in float64, so that what differs
is the estimator.

* `bias`: distance of an estimator's mean from the exact gradient, over its norm; of what is sampled, less what the
  number of samples accounts for, which `bias_error` is;
* `deviation`: root of the summed variances over the exact norm, of one training run's worth of samples;
* `cosine`, `relative_error`: expected at the cost of `BUDGETS[0]` training runs, with `_many` at that of `BUDGETS[1]`,
  from mean and variance: m samples have ‖mean‖² + variance/m as their mean's expected square. The smaller the
  budget, the less depends on the mean, which is known to `bias_error`;
* `time_ratio`: time over that of plain training, of what is not sampled.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

import meta
from meta.hypergradients import estimators
from meta.hypergradients.estimators import Estimates
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Group, Section, grouped, number

TASK = "estimators"
BUDGETS = (4, 64)
"""Trainings that a sampled estimate may cost: about what the exact gradient takes, and many."""
PAIRS = 32
SIGMA = 0.1
WINDOW = 60
SETTINGS: dict[str, Any] = {
    "task": "digits",
    "loss": "diagonal",
    "learning_rate": 0.1,
    "lr_schedule": "constant",
    "dtype": "float64",
}


@dataclass(frozen=True)
class Static:
    """A training run under one action.

    Attributes:
        steps: T.
        seed: the episode's.
    """

    steps: int
    seed: int

    def single(self, **settings: Any) -> tuple[meta.Training, Any]:
        """The process and its initial state, with some settings changed."""
        env = TeachEnv(**{**SETTINGS, "horizon": self.steps, **settings})
        env.reset(seed=self.seed)
        return meta.Training(env.dynamics, env.episode), env.student

    def batch(self, students: int) -> tuple[meta.Training, Any]:
        """The same for several students, all of the same episode."""
        env = TeachVectorEnv(students, **{**SETTINGS, "horizon": self.steps})
        env.reset(seed=[self.seed] * students)
        return meta.Training(env.dynamics, env.episodes), env.students

    @property
    def action(self) -> torch.Tensor:
        """The neutral action, (classes,)."""
        return torch.zeros(10, dtype=torch.float64)

    def differentiated(self, **options: Any) -> Estimates:
        """The gradient by `meta.hypergradient`."""
        process, begin = self.single()
        gradient = meta.hypergradient(process, begin, [self.action], steps_per_action=self.steps, **options)
        return Estimates(gradient.actions, gradient.gradient_evaluations)

    def sampled(self, estimator: Callable[..., Estimates], students: int, **options: Any) -> Estimates:
        """An estimate by training runs of a batch."""
        process, begin = self.batch(students)
        generator = torch.Generator().manual_seed(self.seed)
        return estimator(process, begin, self.action, self.steps, sigma=SIGMA, generator=generator, **options)

    def implicit(self, **options: Any) -> Estimates:
        """An estimate at the end of the training, by full-batch descent without momentum there."""
        end = self.end
        sizes = {"batch_size": len(self.single()[0].episode.train), "momentum": 0.0, "horizon": 1}
        process, begin = self.single(**sizes)
        # The parameters of the trained student, in the state of an optimiser that has no momentum.
        state = replace(begin, parameters=end.parameters, buffers=end.buffers)
        return estimators.implicit(process, state, self.action, **options)

    @functools.cached_property
    def end(self) -> Any:
        """The state after the training."""
        process, state = self.single()
        for t in range(self.steps):
            state = process.step(state, self.action, t)
        return state


def _truncated(last: int) -> Callable[[Static], Estimates]:
    return lambda training: training.differentiated(method="truncated", last=min(last, training.steps), memory="states")


ESTIMATORS: dict[str, Callable[[Static], Estimates]] = {
    "rmd": lambda training: training.differentiated(memory="states"),
    "forward": lambda training: training.differentiated(method="forward"),
    "finite-difference": lambda training: training.differentiated(method="finite-difference", memory="states"),
    "truncated:10": _truncated(10),
    "truncated:60": _truncated(60),
    "truncated:240": _truncated(240),
    "implicit:neumann-100": lambda training: training.implicit(terms=100),
    "implicit:neumann-1000": lambda training: training.implicit(terms=1000),
    "implicit:cg-20": lambda training: training.implicit(terms=20, solver="conjugate-gradients"),
    "evolution-strategies": lambda training: training.sampled(estimators.evolution_strategies, 2 * PAIRS, pairs=PAIRS),
    "pes": lambda training: training.sampled(
        estimators.persistent_evolution_strategies, 2 * PAIRS, pairs=PAIRS, window=WINDOW
    ),
    "nres": lambda training: training.sampled(
        estimators.noise_reuse_evolution_strategies, 2 * PAIRS, pairs=PAIRS, window=WINDOW
    ),
    "reinforce": lambda training: training.sampled(estimators.reinforce, 2 * PAIRS, rollouts=2 * PAIRS, window=WINDOW),
}
"""By name; what is after a colon is the number of steps, terms or iterations."""


@functools.lru_cache(maxsize=8)
def _estimated(name: str, training: Static) -> tuple[Estimates, float]:
    start = time.perf_counter()
    estimates = ESTIMATORS[name](training)
    return estimates, time.perf_counter() - start


def measured(name: str, training: Static, folder: Path) -> Outcome:
    """How far an estimator is from the exact gradient.

    Args:
        name: the estimator's name.
        training: the training.
        folder: is not used.
    """
    exact = _estimated("rmd", training)[0].mean
    estimates, seconds = _estimated(name, training)
    values = {"gradient_norm": float(exact.norm()), **compared(estimates, exact, training.steps)}
    if len(estimates.samples) == 1:
        vars(training).pop("end", None)
        start = time.perf_counter()
        _ = training.end  # plain training, by the same steps
        values["time_ratio"] = seconds / (time.perf_counter() - start)
    return Outcome(values=values, student_steps=estimates.student_steps, seconds=seconds)


def compared(estimates: Estimates, exact: torch.Tensor, steps: int) -> dict[str, float]:
    """Bias, deviation, and what is to be expected at each budget.

    Args:
        estimates: those of a method.
        exact: the exact gradient, (n,).
        steps: the student steps of one training run.
    """
    norm, mean, samples = float(exact.norm()), estimates.mean, len(estimates.samples)
    variance = float(estimates.samples.var(0).sum()) if samples > 1 else 0.0
    noise = variance / samples
    bias = math.sqrt(max(0.0, float((mean - exact).square().sum()) - noise))
    along = float(mean @ exact) / norm
    square = max(float(mean.square().sum()) - noise, along**2)
    cost = estimates.student_steps / samples / steps  # of a sample, in training runs
    values = {
        "bias": bias / norm,
        "bias_error": math.sqrt(noise) / norm,
        "deviation": math.sqrt(variance * cost) / norm if samples > 1 else 0.0,
    }
    for budget, suffix in zip(BUDGETS, ("", "_many"), strict=True):
        left = variance * cost / budget
        length = math.sqrt(square + left)
        values[f"cosine{suffix}"] = along / length if length > 0 else 0.0
        values[f"relative_error{suffix}"] = math.hypot(bias, math.sqrt(left)) / norm
    return values


def cases(benchmark: str, names: Sequence[str], lengths: Sequence[int], seeds: int) -> list[Case]:
    """A case for each estimator, length and seed."""
    return [
        Case(
            benchmark=benchmark,
            task=TASK,
            dataset="digits",
            student="mlp",
            method=name,
            seed=seed,
            config={"steps": steps, "pairs": PAIRS, "sigma": SIGMA, "window": WINDOW, "settings": SETTINGS},
            label=f"T = {steps}: {name}",
            function=measured,
            arguments={"name": name, "training": Static(steps, seed)},
            last="relative_error_many",
        )
        for seed in range(seeds)
        for steps in lengths
        for name in names
        # A truncation that is none is the exact gradient.
        if not name.startswith("truncated") or int(name.partition(":")[2]) < steps
    ]


def expected(group: Group, metric: str, budget: int) -> list[float]:
    """The cosine or the relative error at a budget, of each seed.

    The mean of few samples of large variance says nothing of a bias, and would make cosines of its noise. Where the
    bias cannot be told from zero, what is expected is that of unbiased samples: for their deviation d and a budget of
    b training runs, an error of d/√b and a cosine of 1/√(1 + d²/b).

    Args:
        group: the rows of an estimator and a length.
        metric: `"cosine"` or `"relative_error"`.
        budget: one of `BUDGETS`.
    """
    stored = group.values(metric if budget == BUDGETS[0] else f"{metric}_many")
    bias, noise, deviation = (group.values(name) for name in ("bias", "bias_error", "deviation"))
    numbers = []
    for seed, value in stored.items():
        error = deviation[seed] / math.sqrt(budget)
        unbiased = deviation[seed] > 0 and bias[seed] < math.sqrt(3) * noise[seed]
        numbers.append(value if not unbiased else error if metric == "relative_error" else 1 / math.hypot(1, error))
    return numbers


def _cell(group: Group, metric: str, budget: int, form: str) -> str:
    return format(statistics.median(expected(group, metric, budget)), form)


def report(rows: Sequence[Row]) -> Report:
    """The report: a table with a line for each length and estimator, medians over seeds."""
    columns = [
        Column("T", lambda group: f"{group.config['steps']:,}"),
        Column("estimator", lambda group: group.first.method),
        Column("seeds", lambda group: str(len(group.values("bias")))),
        number("time / plain", "time_ratio", ".3g"),
        number("bias", "bias", ".2g"),
        number("± of the bias", "bias_error", ".1g"),
        number("deviation", "deviation", ".2g"),
        *(
            Column(f"{header}, {budget} training runs", partial(_cell, metric=metric, budget=budget, form=form))
            for metric, header, form in (("cosine", "cosine", ".3f"), ("relative_error", "error", ".2g"))
            for budget in BUDGETS
        ),
    ]
    lines = sorted(
        grouped(rows, key=lambda row: f"{row.config['steps']} {row.method}"),
        key=lambda group: (group.config["steps"], list(ESTIMATORS).index(group.first.method)),
    )
    text = (
        "Estimates of the derivative with respect to one action held for T steps. Bias, deviation (of one training "
        "run's worth of samples) and error are in units of the exact gradient's norm; errors and cosines are expected "
        f"at the cost of {BUDGETS[0]} and {BUDGETS[1]} training runs; where a sampled estimate shows no bias, they are "
        "computed as if it had none."
    )
    return Report("Estimators of a hypergradient", [Section.of("", columns, lines, text)] if lines else [], {}, rows)
