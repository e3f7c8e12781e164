"""Data attribution: how each training sample's weight changes the loss of each test, exactly.

A training run is a function of the weights w of its samples: each step takes the mean of w_i ℓ_i over its minibatch. At
w = 1 it is the plain training run. The derivative of a test's loss after the *whole training* with respect to w_i says
what the sample did to that test: positive, it raised the test's loss, and training without it would lower it; negative,
it helped. It is computed by reverse-mode differentiation through all steps (`meta.hypergradient`), without the
assumptions of influence functions (a minimum, a Hessian's inverse) or of TracIn (steps that do not interact).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from meta.hypergradients.hypergradient import hypergradient
from meta.hypergradients.memory_policies import MemoryOption
from meta.hypergradients.sweep import Hypergradient
from meta.influence.measured_training import MeasuredTraining, Walk, WatchedDynamics, usual_memory, walk_of
from meta.influence.own_training import OwnTraining
from meta.influence.tables import data_frame, write_csv
from teachenv import checks
from teachenv.control import Control
from teachenv.dynamics import Dynamics
from teachenv.env import TeachEnv
from teachenv.experiment.progress import bar
from teachenv.losses.plain import plain_loss, usual_loss
from teachenv.problem_checks import check_learned, check_loss_alone
from teachenv.randomness import SEED_BOUND
from teachenv.state import Episode
from teachenv.students import Prediction
from teachenv.tasks.base import Task
from teachenv.tasks.measures import Measure
from teachenv.tasks.splits import Split, checked_split, in_form_of
from teachenv.tasks.targets import labels_of
from teachenv.trees import bytes_of
from teachenv.trial.losses import refuse_broadcasting

Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(outputs, targets) of some tests to a scalar."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """How the weight of each training sample changes what each test measures.

    Attributes:
        values: d(test's loss)/d(weight of a sample), (tests, samples), samples in the pool's order; 0 for samples that
            the training did not see. The mean over training runs, if there were several.
        losses: each test's loss at the end of the plain training run, (tests,); the mean over training runs.
        trainings: how many training runs there were.
        steps: student steps of one training run.
        memory: the memory policy that was followed.
        walks: how often each training run was walked through: the tests that fit into memory share one.
        gradient_evaluations: gradients of minibatch losses that one walk computed: `steps` of them where every graph
            was kept; each replay of a step counts as one more.
        hessian_vector_products: double backward passes for one training run and test.
        measured_bytes: the most memory that a walk's states and graphs and the cotangents of its tests took.
    """

    values: np.ndarray
    losses: np.ndarray
    trainings: int
    steps: int
    memory: str | int
    walks: int
    gradient_evaluations: int
    hessian_vector_products: int
    measured_bytes: int

    def __repr__(self) -> str:
        tests, samples = self.values.shape
        return f"Attribution(tests={tests}, samples={samples}, trainings={self.trainings}, steps={self.steps})"

    def ranked(self, test: int | None = None) -> np.ndarray:
        """The samples' numbers, from the one that raised a test's loss most to the one that lowered it most.

        Args:
            test: which test, by its number; None: all, by the mean of their values.

        Raises:
            ValueError: there is no such test.
        """
        if test is None:
            values = self.values.mean(0)
        else:
            values = self.values[checks.integer("test", test, least=0, most=len(self.values) - 1)]
        return np.argsort(-values, kind="stable")

    def to_csv(self, path: Any) -> None:
        """Writes a line for each test and sample: `test,sample,value`."""
        values = ((*place, repr(float(value))) for place, value in np.ndenumerate(self.values))
        write_csv(path, ("test", "sample", "value"), values)

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row for each test and a column for each sample.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        return data_frame(self.values).rename_axis(index="test", columns="sample")


def attribute(
    training: gym.Env[Any, Any] | OwnTraining,
    tests: tuple[Any, Any],
    *,
    objective: Objective | None = None,
    together: bool = False,
    seeds: Sequence[int] | None = None,
    memory: MemoryOption = "auto",
) -> Attribution:
    """Computes how the weight of each training sample changes the loss of each test.

        env = gym.make("TeachDigits-v0", loss="data-weights", train_on="pool", horizon=300)
        scores = meta.attribute(env, tests=(x, y), seeds=[0])
        worst = scores.ranked()[:20]

    On a terminal a bar shows how many steps have been differentiated.

    Args:
        training: an environment with `loss="data-weights"` or `"sample-weights"`; the training is that of its student
            under the plain loss, with its optimiser, schedule, augmentation and minibatches. It stays as it is. The
            steps of a warm start count for no sample. Or a training run of your own, a `meta.OwnTraining`.
        tests: (inputs, targets) of the tests, in the form of the training's data: tensors, arrays, lists, data frames.
        objective: what a test measures: a function of outputs and targets to a scalar, differentiable in the outputs.
            It gets one test at a time, as a batch of one, or all of them if `together`. None: of an `OwnTraining` whose
            loss is a function the mean of that loss; else by the targets, whatever loss is trained with: for labels
            and class probabilities the cross-entropy, for regression the mean squared error, for multi-label targets
            the binary cross-entropy.
        together: whether there is one value for all tests, of their mean loss (or of the objective of all).
        seeds: the training runs, by the seeds that `env.reset` takes; values are their mean. None: the training of the
            environment's current episode, or the seed of an `OwnTraining`.
        memory: what is kept of a training between its way forwards and backwards, as in `meta.hypergradient`: `"all"`,
            `"states"`, `"sqrt"`, a number of checkpoints, or `"auto"`: `"all"` where the graphs of all steps take at
            most 256 MB, else `"states"`.

    Raises:
        TypeError: `training` is neither, or the objective is no function.
        ValueError: a loss whose samples have no weights, tests of another shape than the training's data, no seed, an
            objective that is no scalar, an unknown memory policy, or a training run that diverges.
        RuntimeError: a training run that is not deterministic; says which step differs.
    """
    together = checks.flag("together", together)
    if not (objective is None or callable(objective)):
        raise TypeError(
            f"objective must be None or a function of (outputs, targets) to a scalar, found {checks.shown(objective)}"
        )
    if isinstance(training, OwnTraining):
        teach, tests = training.environment(), training.encoded(tests)
        objective = training.objective if objective is None else objective
        seeds = [training.seed] if seeds is None else seeds
    else:
        given: Any = training
        teach = getattr(given, "unwrapped", given)
    if not isinstance(teach, TeachEnv):
        raise TypeError(
            f"attribution needs a TeachEnv or a meta.OwnTraining, found {checks.shown(teach)}; describe a loop of your "
            "own by meta.OwnTraining (of a meta.Training.of whose loss reads the samples' weights, they are in "
            "training.gradient().hyperparameters)"
        )
    episodes = [teach.episode] if seeds is None else [_episode(teach, seed) for seed in _some(seeds)]
    dynamics, split = _weighing(teach, objective), _tests(teach, tests)
    if objective is not None and together:
        refuse_broadcasting("the objective of tests", objective, dynamics.student.output_shape, split[1])
    results = _differentiated(dynamics, episodes, split, together, memory)
    return _attribution(results, len(episodes), teach.problem.settings.horizon)


def _differentiated(
    dynamics: Dynamics, episodes: Sequence[Episode], tests: Split, together: bool, memory: MemoryOption
) -> list[Hypergradient]:
    """Each training run, with the walks of its tests one after the other."""
    neutral = torch.zeros(len(dynamics.task.pool[0]), dtype=dynamics.student.dtype, device=dynamics.student.device)
    walk, steps = Walk(dynamics, None, len(tests[0])), len(episodes[0].batches)
    if not together and walk.count > 1:
        walk = walk_of(dynamics, episodes[0], neutral, tests)
    groups = list(zip(*(torch.split(part, walk.count) for part in tests), strict=True))
    results = []
    with bar("attribution", len(episodes) * len(groups) * steps) as advance:
        for episode in episodes:
            watched, begin = WatchedDynamics.of(walk.dynamics), dynamics.init(episode)
            for group in groups:
                process = MeasuredTraining(watched, episode, group, walk.each)
                kept = usual_memory(process, begin, neutral, steps) if memory == "auto" else memory
                results.append(
                    hypergradient(process, begin, [neutral], steps_per_action=steps, memory=kept, advance=advance)
                )
            if isinstance(watched, WatchedDynamics):
                watched.check(begin, episode, neutral)
    return results


def _attribution(results: Sequence[Hypergradient], trainings: int, steps: int) -> Attribution:
    """The record of training runs, each with the results of its walks, one after the other.

    Raises:
        ValueError: a training diverged.
    """
    first, walks = results[0], len(results) // trainings
    values, losses = (
        torch.cat(parts).view(trainings, -1, *parts[0].shape[1:]).double().mean(0).cpu().numpy()
        for parts in (
            [result.actions[0].view(-1, result.actions.shape[-1]) for result in results],
            [result.objective.view(-1) for result in results],
        )
    )
    if not (np.isfinite(values).all() and np.isfinite(losses).all()):
        raise ValueError(
            "the training diverges: what the tests measure, or its derivative, is not finite; choose a smaller "
            "learning rate, or another objective"
        )
    return Attribution(
        values,
        losses,
        trainings,
        steps,
        first.memory,
        walks,
        first.gradient_evaluations,
        first.hessian_vector_products,
        max(result.measured_bytes + bytes_of(result.initial, result.actions) for result in results),
    )


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
    check_loss_alone(teach.problem, "attribution")
    family = dynamics.loss.of_data()
    if family is None:
        raise ValueError(
            f"attribution needs a loss of weighted samples, found loss={teach.problem.settings.loss!r}: make the "
            'environment with loss="data-weights", whose zero action is the plain loss'
        )
    check_learned(teach.problem.settings, teach.task, family)
    (move,) = dynamics.moves
    measure = _TestLoss(_usual(teach.task) if objective is None else objective)
    weighing = replace(move, loss=family, control=Control(dynamics.rows.pool))
    return replace(dynamics, moves=(weighing,), measure=measure)


def _usual(task: Task) -> Objective:
    """The mean of the loss that targets of the task's kind are usually trained with."""
    loss = plain_loss(usual_loss(task))
    return lambda outputs, targets: loss(Prediction(outputs), targets).mean()


def _tests(teach: TeachEnv, tests: Any) -> Split:
    """The tests as tensors, in the form of the task's data."""
    inputs, targets = checked_split(tests, "tests", teach.task.packing, teach.task.pool_columns)
    classifies = teach.problem.classifies
    given = inputs, labels_of(targets, "tests") if classifies else targets
    for what, tensor, pool in zip(("inputs", "targets"), given, teach.task.pool, strict=True):
        if tensor.shape[1:] != pool.shape[1:]:
            raise ValueError(
                f"{what} of tests have shape {tuple(tensor.shape)}, expected (tests, *{tuple(pool.shape[1:])}) as in "
                f"the pool of task {teach.task.name!r}"
            )
    lowest, highest = (float(extreme) for extreme in given[1].aminmax())
    if classifies and not 0 <= lowest <= highest < teach.task.num_outputs:
        raise ValueError(
            f"labels of tests go from {lowest:g} to {highest:g}, expected 0 to {teach.task.num_outputs - 1}, as in "
            f"task {teach.task.name!r}"
        )
    pool_inputs, pool_targets = teach.task.pool
    dtype = teach.dynamics.student.dtype
    return in_form_of(pool_inputs, given[0], dtype, "inputs of tests"), given[1].to(pool_targets)


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
