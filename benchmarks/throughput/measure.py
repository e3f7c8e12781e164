"""The four measurements; contenders take turns, and each figure is the median over the turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.throughput.cases import Case, Size
from meta.action_gradient import ActionGradient, VectorActionGradient
from teachenv.env import TeachEnv
from teachenv.randomness import Purpose, generator
from teachenv.students import make_student
from teachenv.tasks.base import Task
from teachenv.vector_env import TeachVectorEnv


class _Stopwatch:
    """The seconds that calls of a function take."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.seconds = 0.0
        self._function = function

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = self._function(*arguments, **options)
        self.seconds += time.perf_counter() - start
        return result


def _timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _against_torch(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """`TeachEnv.step` over a plain loop, the time of the dev evaluation taken out of both."""
    steps = case.steps(size)
    env = TeachEnv(**case.options(task) | {"horizon": (size.pieces + 1) * steps})
    env.reset(seed=seed)
    evaluation = _Stopwatch(env.dynamics.metrics)
    setattr(env.dynamics, "metrics", evaluation)  # noqa: B010 - an attribute that hides the method, for the clock's sake
    neutral = np.zeros(env.action_space.shape or (), dtype=np.float32)

    def one_env_step() -> float:
        evaluation.seconds = 0.0
        return _timed(lambda: env.step(neutral)) - evaluation.seconds

    plain = plain_steps(env)
    seconds: list[tuple[float, float]] = []
    for piece in range(size.pieces + 1):
        b = statistics.median(next(plain) for _ in range(steps))
        a = statistics.median(one_env_step() for _ in range(steps))
        if piece:  # the first is the warm-up of both
            seconds.append((a, b))
    values = {
        "step_ratio": statistics.median(a / b for a, b in seconds),
        "student_steps_per_second": 1 / statistics.median(a for a, _ in seconds),
        "plain_steps_per_second": 1 / statistics.median(b for _, b in seconds),
    }
    return values, 2 * (size.pieces + 1) * steps


def plain_steps(env: TeachEnv) -> Iterator[float]:
    """Trains the environment's student on its minibatches as anybody would; yields the seconds of each step."""
    settings, episode, task = env.teaching.settings, env.episode, env.teaching.task
    network = make_student(str(settings.student), tuple(task.pool[0].shape[1:]), task.num_outputs)()
    network.load_state_dict(env.student.parameters | env.student.buffers)
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    (inputs, targets), (dev_inputs, dev_targets) = task.pool, env.dynamics.dev(episode)
    for t in range(settings.horizon):
        network.train()
        start = time.perf_counter()
        indices = episode.batches[t]
        x, y = inputs[indices], targets[indices]
        if env.dynamics.augmentation is not None:
            x = env.dynamics.augmentation(x, generator(episode.seeds[0], Purpose.AUGMENTATION, t))
        optimizer.zero_grad()
        outputs = network(x)
        loss = F.cross_entropy(outputs, y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item(), (outputs.detach().argmax(1) == y).double().mean().item()  # what the environment reports, too
        yield time.perf_counter() - start
        network.eval()
        with torch.no_grad():
            outputs = network(dev_inputs)
            env.dynamics.measure.objective(outputs, dev_targets)
            env.dynamics.measure.assess(outputs, dev_targets)


def _against_singles(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """All students at once over one after the other, in groups between which the vector environment takes its turn."""
    steps, students = size.vector_steps, case.students
    settings = case.options(task) | {"horizon": steps + 1}  # one more, so that no episode ends and is reset
    vector, single = TeachVectorEnv(students, **settings), TeachEnv(**settings)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *(vector.action_space.shape or ()))).astype(np.float32)
    rewards = np.zeros((steps, students))

    def all_at_once() -> None:
        for t in range(steps):
            rewards[t] = vector.step(actions[t])[1]

    groups = np.array_split(np.arange(students), size.pieces + 1)
    seconds: list[tuple[float, float]] = []  # of one step of one student: vectorised, single
    differences = [0.0]
    for piece, group in enumerate(groups):
        vector.reset(seed=1000 * seed)
        together = _timed(all_at_once) / (steps * students)
        alone = 0.0
        for i in group:
            single.reset(seed=1000 * seed + int(i))
            own = np.zeros(steps)
            start = time.perf_counter()
            for t in range(steps):
                own[t] = single.step(actions[t, i])[1]
            alone += (time.perf_counter() - start) / (steps * len(group))
            differences.append(float(np.abs(own - rewards[:, i]).max()))
            for name, parameter in single.student.parameters.items():
                differences.append(float((parameter - vector.students.parameters[name][i]).abs().max()))
        if piece:  # the first is the warm-up of both
            seconds.append((together, alone))
    values = {
        "vector_speedup": statistics.median(alone / together for together, alone in seconds),
        "student_steps_per_second": 1 / statistics.median(together for together, _ in seconds),
        "single_steps_per_second": 1 / statistics.median(alone for _, alone in seconds),
        "largest_difference": float(np.max(differences)),
    }
    return values, steps * students * (size.pieces + 2)


def _vmap_against_loop(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """The two paths of the vector environment, and which of them `path="auto"` takes."""
    steps = case.steps(size)
    settings = case.options(task) | {"horizon": (size.pieces + 1) * steps + 1}
    paths: tuple[Literal["vmap", "loop"], ...] = ("vmap", "loop")
    vmap, loop = (TeachVectorEnv(case.students, path=path, **settings) for path in paths)
    chosen = TeachVectorEnv(case.students, **settings).path
    neutral = np.zeros(vmap.action_space.shape or (), dtype=np.float32)
    seconds: dict[str, list[float]] = {path: [] for path in paths}
    for env in (vmap, loop):
        env.reset(seed=seed)
    for piece in range(size.pieces + 1):
        for env in (vmap, loop):
            taken = statistics.median(_timed(lambda env=env: env.step(neutral)) for _ in range(steps))  # type: ignore[misc]
            if piece:
                seconds[env.path].append(taken)
    ratios = [b / a for a, b in zip(seconds["vmap"], seconds["loop"], strict=True)]
    values = {
        "vmap_speedup": statistics.median(ratios),
        "student_steps_per_second": case.students / statistics.median(seconds["vmap"]),
        "loop_steps_per_second": case.students / statistics.median(seconds["loop"]),
        "auto_is_vmap": float(chosen == "vmap"),
    }
    return values, 2 * (size.pieces + 1) * steps * case.students


def _gradient(case: Case, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """Episodes with the action gradient over episodes without it."""
    horizon = 2 * case.steps(size)
    settings = case.options(task) | {"horizon": horizon}
    plain: gym.Env[Any, Any] | TeachVectorEnv
    taught: gym.Env[Any, Any] | VectorActionGradient
    if case.students == 1:
        plain, taught = TeachEnv(**settings), ActionGradient(TeachEnv(**settings), case.method)
    else:
        plain = TeachVectorEnv(case.students, **settings)
        taught = VectorActionGradient(TeachVectorEnv(case.students, **settings), case.method)
    neutral = np.zeros(plain.action_space.shape or (), dtype=np.float32)

    def episode(env: Any) -> float:
        env.reset(seed=seed)
        return _timed(lambda: [env.step(neutral) for _ in range(horizon)])

    pieces = [(episode(plain), episode(taught)) for _ in range(size.pieces + 1)][1:]
    values = {
        "gradient_ratio": statistics.median(with_gradient / without for without, with_gradient in pieces),
        "student_steps_per_second": horizon * case.students / statistics.median(p[1] for p in pieces),
        "plain_steps_per_second": horizon * case.students / statistics.median(p[0] for p in pieces),
    }
    return values, 2 * (size.pieces + 1) * horizon * case.students


MEASUREMENTS: dict[str, Callable[[Case, Task, int, Size], tuple[dict[str, float], int]]] = {
    "step": _against_torch,
    "vector": _against_singles,
    "paths": _vmap_against_loop,
    "gradient": _gradient,
}
