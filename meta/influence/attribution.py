"""Data attribution: how each training sample's weight changes the loss of each test, exactly.

A training is a function of the weights w of its samples: each step takes the mean of w_i ℓ_i over its minibatch. At
w = 1 it is the plain training. The derivative of a test's loss after the *whole training* with respect to w_i says what
the sample did to that test: positive, it raised the test's loss, and training without it would lower it; negative, it
helped. It is computed by reverse-mode differentiation through all steps (`meta.hypergradient`), without the
assumptions of influence functions (a minimum, a Hessian's inverse) or of TracIn (steps that do not interact).
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
import torch.nn.functional as F

from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.sweep import Hypergradient
from meta.hypergradients.training import Training
from teachenv import checks
from teachenv.batching import batched
from teachenv.dynamics import Dynamics
from teachenv.env import TeachEnv
from teachenv.experiment.writing import write_atomically
from teachenv.mapping import Mapping
from teachenv.problem_checks import check_learned
from teachenv.randomness import SEED_BOUND
from teachenv.state import Episode, StudentState, stack_episodes
from teachenv.tasks.measures import Measure
from teachenv.trees import bytes_of, mapped

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) of some tests to a scalar."""

_BYTES_TOGETHER = 2**28
"""How much the cotangents of the tests that are differentiated together may take."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """How the weight of each training sample changes what each test measures.

    Attributes:
        values: d(test's loss)/d(weight of a sample), (tests, samples), samples in the pool's order; 0 for samples that
            the training did not see. The mean over trainings, if there were several.
        losses: each test's loss at the end of the plain training, (tests,); the mean over trainings.
        trainings: how many trainings there were.
        steps: student steps of one training.
        hessian_vector_products: double backward passes for one training and test.
        measured_bytes: the most memory that states, cotangents and graphs took.
    """

    values: np.ndarray
    losses: np.ndarray
    trainings: int
    steps: int
    hessian_vector_products: int
    measured_bytes: int

    def ranked(self, test: int | None = None) -> np.ndarray:
        """The samples' numbers, from the one that raised a test's loss most to the one that lowered it most.

        Args:
            test: which test; None: all, by the mean of their values.
        """
        values = self.values.mean(0) if test is None else self.values[test]
        return np.argsort(-values, kind="stable")

    def to_csv(self, path: Any) -> None:
        """Writes a line for each test and sample: `test,sample,value`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("test", "sample", "value"))
        for test, row in enumerate(self.values):
            writer.writerows((test, sample, repr(float(value))) for sample, value in enumerate(row))
        write_atomically(path, text.getvalue())

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each test and a column for each sample.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            pandas = importlib.import_module("pandas")  # not a dependency: it is there where it is used
        except ModuleNotFoundError as missing:
            raise ImportError("to_frame needs pandas: pip install pandas, or read `values`") from missing
        return pandas.DataFrame(self.values).rename_axis(index="test", columns="sample")


def attribute(
    env: gym.Env[Any, Any],
    tests: tuple[Any, Any],
    *,
    objective: Objective | None = None,
    together: bool = False,
    seeds: Sequence[int] | None = None,
) -> Attribution:
    """Computes how the weight of each training sample changes the loss of each test.

        env = gym.make("TeachDigits-v0", loss="data-weights", train_on="pool", horizon=300)
        scores = meta.attribute(env, tests=(x, y), seeds=[0])
        worst = scores.ranked()[:20]

    Args:
        env: an environment with `loss="data-weights"` or `"sample-weights"`; the training is that of its student under
            the plain loss, with its optimiser, schedule, augmentation and minibatches. It stays as it is. The steps of
            a warm start count for no sample.
        tests: (inputs, targets) of the tests, in the form of the environment's task.
        objective: what a test measures: a function of outputs and targets to a scalar, differentiable in the outputs.
            It gets one test at a time, as a batch of one, or all of them if `together`. None: the cross-entropy.
        together: whether there is one value for all tests, of their mean loss (or of the objective of all).
        seeds: the trainings, by the seeds that `env.reset` takes; values are their mean. None: the training of the
            environment's current episode.

    Raises:
        TypeError: the environment is no `TeachEnv`.
        ValueError: a loss whose samples have no weights, tests of another shape than the task's, no seed, an objective
            that is no scalar, or a training that diverges.
    """
    teach = env.unwrapped
    if not isinstance(teach, TeachEnv):
        raise TypeError(f"attribution is of a TeachEnv's training, found {type(teach).__name__}")
    inputs, targets = _tests(teach, tests)
    dynamics = _weighing(teach, objective)
    many = None if together or len(inputs) == 1 else batched(teach.problem)
    episodes = [teach.episode] if seeds is None else [_episode(teach, seed) for seed in _some(seeds)]
    groups = [(inputs, targets)] if together else _groups(dynamics, episodes[0], inputs, targets)
    values, losses, peak, products = [], [], 0, 0
    for episode in episodes:
        states, of_tests = _trained(dynamics, episode, teach.problem.settings.horizon), []
        held = bytes_of(list(states.values()))
        for group in groups:
            result = _of_group(dynamics, episode, states, *group, many=many)
            of_tests.append((result.actions[0].reshape(-1, len(teach.task.pool[0])), result.objective.reshape(-1)))
            peak, products = max(peak, held + result.measured_bytes), result.hessian_vector_products
        values.append(torch.cat([of_weights for of_weights, _ in of_tests]))
        losses.append(torch.cat([loss for _, loss in of_tests]))
    mean = [torch.stack(each).double().mean(0).cpu().numpy() for each in (values, losses)]
    if not all(np.isfinite(each).all() for each in mean):
        raise ValueError(
            "the training diverges: what the tests measure, or its derivative, is not finite; choose a smaller "
            "learning_rate, or another objective"
        )
    return Attribution(mean[0], mean[1], len(episodes), teach.problem.settings.horizon, products, peak)


class _TestLoss(Measure):
    """The objective of tests, in the place of the measure on dev."""

    def __init__(self, objective: Objective) -> None:
        self._objective = objective

    def objective(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value: Any = self._objective(outputs, targets)
        if not isinstance(value, torch.Tensor) or value.dim():
            form = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else checks.shown(value)
            raise ValueError(f"the objective of tests must be a scalar tensor, found {form}; take its mean")
        return value

    def score(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(outputs[..., 0].sum())


def _weighing(teach: TeachEnv, objective: Objective | None) -> Dynamics:
    """The environment's training under weights of the pool's samples, measured by the tests."""
    dynamics = teach.dynamics
    family = dynamics.loss.of_data()
    if family is None:
        raise ValueError(
            f"attribution needs a loss of weighted samples, found loss={teach.problem.settings.loss!r}: make the "
            'environment with loss="data-weights", whose zero action is the plain loss'
        )
    check_learned(teach.problem.settings, teach.task, family)
    (move,) = dynamics.moves
    measure = _TestLoss(F.cross_entropy if objective is None else objective)
    return replace(dynamics, moves=(replace(move, loss=family),), measure=measure)


def _tests(teach: TeachEnv, tests: tuple[Any, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    try:
        inputs, targets = tests
    except (TypeError, ValueError):
        raise ValueError(f"tests must be a pair (inputs, targets), found {checks.shown(tests)}") from None
    converted = []
    for what, given, pool in zip(("inputs", "targets"), (inputs, targets), teach.task.pool, strict=True):
        tensor = torch.as_tensor(np.asarray(given) if not isinstance(given, torch.Tensor) else given)
        if tensor.shape[1:] != pool.shape[1:] or tensor.dim() != pool.dim():
            raise ValueError(
                f"{what} of tests have shape {tuple(tensor.shape)}, expected (tests, *{tuple(pool.shape[1:])}) as in "
                f"the pool of task {teach.task.name!r}"
            )
        converted.append(tensor.to(pool.dtype).to(pool.device))
    if len(converted[0]) != len(converted[1]) or not len(converted[0]):
        raise ValueError(
            f"found {len(converted[0])} inputs and {len(converted[1])} targets of tests, expected as many, at least one"
        )
    lowest, highest = int(converted[1].min()), int(converted[1].max())
    if teach.problem.classifies and not 0 <= lowest <= highest < teach.task.num_outputs:
        raise ValueError(
            f"labels of tests go from {lowest} to {highest}, expected 0 to {teach.task.num_outputs - 1}, as in "
            f"task {teach.task.name!r}"
        )
    return converted[0], converted[1]


def _some(seeds: Sequence[int]) -> list[int]:
    if not isinstance(seeds, Iterable):
        raise ValueError(f"seeds must be a list of numbers, found {checks.shown(seeds)}: seeds=[{checks.shown(seeds)}]")
    given = [checks.integer("seeds", seed, least=0) for seed in seeds]
    if not given:
        raise ValueError("seeds is empty: give at least one, or None for the environment's current episode")
    return given


def _episode(teach: TeachEnv, seed: int) -> Episode:
    """The episode that `reset(seed=seed)` begins."""
    random, _ = gym.utils.seeding.np_random(seed)
    return teach.problem.episodes.of(int(random.integers(SEED_BOUND)))


def _trained(dynamics: Dynamics, episode: Episode, horizon: int) -> dict[int, StudentState]:
    """The student after each step of the plain training."""
    neutral = torch.zeros(len(dynamics.task.pool[0]), dtype=dynamics.student.dtype, device=dynamics.student.device)
    states = {0: dynamics.init(episode)}
    for t in range(horizon):
        states[t + 1], _ = dynamics.step(states[t], episode, neutral)
    return states


def _groups(
    dynamics: Dynamics, episode: Episode, inputs: torch.Tensor, targets: torch.Tensor
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tests, in groups of as many as fit into memory together."""
    each = 4 * bytes_of(dynamics.init(episode)) + len(dynamics.task.pool[0]) * inputs.element_size()
    size = max(1, _BYTES_TOGETHER // each)
    return list(zip(torch.split(inputs, size), torch.split(targets, size), strict=True))


def _of_group(
    dynamics: Dynamics,
    episode: Episode,
    states: dict[int, StudentState],
    inputs: torch.Tensor,
    targets: torch.Tensor,
    *,
    many: Mapping | None,
) -> Hypergradient:
    steps, count = len(states) - 1, len(inputs)
    pool, like = len(dynamics.task.pool[0]), dynamics.student
    neutral = torch.zeros(pool, dtype=like.dtype, device=like.device)
    if many is not None:
        process = OfMany(dynamics, episode, many, inputs, targets)
    else:
        process = Training(dynamics, episode, lambda state: dynamics.objective_on(state, inputs, targets))
    return hypergradient(process, states[0], [neutral], steps_per_action=steps, memory=MEM)

MEM = "states"

class OfMany(Training):
    def __init__(self, dynamics, episode, mapping, inputs, targets):
        apart = dynamics.mapped(mapping)
        inputs, targets = inputs[:, None], targets[:, None]
        super().__init__(dynamics, episode, lambda state: apart.objective_on(state, inputs, targets))
        self.count = len(inputs)

    def value(self, state):
        return super().value(_repeated(state, self.count))


def _repeated(state: StudentState, count: int) -> StudentState:
    """So many students, all of them this one, without copies of its tensors."""
    expanded: StudentState = mapped(lambda tensor: tensor.expand(count, *tensor.shape), state)
    return replace(expanded, step=np.full(count, state.step))
