"""The four measurements of throughput; contenders take turns, and each figure is the median over the turns."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn import functional as F

from benchmarks.throughput.cases import Measured, Size
from meta.hypergradients.action_gradient import ActionGradient, VectorActionGradient
from teachenv.env import TeachEnv
from teachenv.experiment.cases import Outcome
from teachenv.experiment.timing import in_turns, seconds_of
from teachenv.randomness import Purpose, generator
from teachenv.students import make_student
from teachenv.tasks.base import Task
from teachenv.tasks.measures import Measure
from teachenv.vector_env import TeachVectorEnv


def measure(case: Measured, task: Task, seed: int, size: Size, folder: Path) -> Outcome:
    """Takes the measurement of a case."""
    start = time.perf_counter()
    values, student_steps = _MEASUREMENTS[case.measurement](case, task, seed, size)
    return Outcome(values=values, student_steps=student_steps, seconds=time.perf_counter() - start)


def _against_torch(case: Measured, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """`TeachEnv.step` over a plain loop, the time of the dev evaluation taken out of both."""
    steps = case.steps(size)
    env = TeachEnv(**case.options(task) | {"horizon": (size.pieces + 1) * steps})
    env.reset(seed=seed)
    evaluations = [0.0]
    env.interface.dynamics = replace(env.dynamics, measure=_clocked(env.dynamics.measure, evaluations))
    neutral = np.zeros(env.action_space.shape or (), dtype=np.float32)
    plain = plain_steps(env)

    def step() -> float:
        return seconds_of(env.step, neutral) - evaluations.pop()

    times = in_turns(
        {
            "plain": lambda: statistics.median(next(plain) for _ in range(steps)),
            "env": lambda: statistics.median(step() for _ in range(steps)),
        },
        size.pieces,
    )
    values = {
        "step_ratio": times.ratio("env", "plain"),
        "student_steps_per_second": 1 / times.median("env"),
        "plain_steps_per_second": 1 / times.median("plain"),
    }
    return values, 2 * (size.pieces + 1) * steps


def _clocked(measure: Measure, seconds: list[float]) -> Measure:
    """The measure, each of whose evaluations appends the seconds that it took."""
    clocked = copy(measure)

    def judge(*arguments: Any) -> Any:
        start = time.perf_counter()
        judged = measure.judge(*arguments)
        seconds.append(time.perf_counter() - start)
        return judged

    setattr(clocked, "judge", judge)  # noqa: B010 - hides the method of this copy
    return clocked


def plain_steps(env: TeachEnv) -> Iterator[float]:
    """Trains the environment's student on its minibatches as anybody would; yields the seconds of each step."""
    settings, episode, task = env.problem.settings, env.episode, env.problem.task
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


def _against_singles(case: Measured, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """All students at once over one after the other, in groups between which the vector environment takes its turn."""
    steps, students = size.vector_steps, case.students
    settings = case.options(task) | {"horizon": steps + 1}  # one more, so that no episode ends and is reset
    vector, single = TeachVectorEnv(students, **settings), TeachEnv(**settings)
    actions = np.random.default_rng(seed).uniform(-1, 1, (steps, *(vector.action_space.shape or ()))).astype(np.float32)
    rewards = np.zeros((steps, students))

    def all_at_once() -> None:
        for t in range(steps):
            rewards[t] = vector.step(actions[t])[1]

    groups = iter(np.array_split(np.arange(students), size.pieces + 1))
    differences = [0.0]

    def together() -> float:
        vector.reset(seed=1000 * seed)
        return seconds_of(all_at_once) / (steps * students)

    def alone() -> float:
        group, seconds = next(groups), 0.0
        for i in group:
            single.reset(seed=1000 * seed + int(i))
            single_rewards = np.zeros(steps)
            start = time.perf_counter()
            for t in range(steps):
                single_rewards[t] = single.step(actions[t, i])[1]
            seconds += (time.perf_counter() - start) / (steps * len(group))
            differences.append(float(np.abs(single_rewards - rewards[:, i]).max()))
            for name, parameter in single.student.parameters.items():
                differences.append(float((parameter - vector.students.parameters[name][i]).abs().max()))
        return seconds

    times = in_turns({"together": together, "alone": alone}, size.pieces)
    largest = float(np.max(differences))
    if not math.isfinite(largest):
        raise ValueError(f"found largest_difference = {largest} between students at once and alone, expected a number")
    values = {
        "vector_speedup": times.ratio("alone", "together"),
        "student_steps_per_second": 1 / times.median("together"),
        "single_steps_per_second": 1 / times.median("alone"),
        "largest_difference": largest,
    }
    return values, steps * students * (size.pieces + 2)


def _vmap_against_loop(case: Measured, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """The two paths of the vector environment, and which of them `path="auto"` takes."""
    steps = case.steps(size)
    settings = case.options(task) | {"horizon": (size.pieces + 1) * steps + 1}
    chosen = TeachVectorEnv(case.students, **settings).path

    def on(path: Literal["vmap", "loop"]) -> Callable[[], float]:
        env = TeachVectorEnv(case.students, path=path, **settings)
        env.reset(seed=seed)
        neutral = np.zeros(env.action_space.shape or (), dtype=np.float32)
        return lambda: statistics.median(seconds_of(env.step, neutral) for _ in range(steps))

    times = in_turns({"vmap": on("vmap"), "loop": on("loop")}, size.pieces)
    values = {
        "vmap_speedup": times.ratio("loop", "vmap"),
        "student_steps_per_second": case.students / times.median("vmap"),
        "loop_steps_per_second": case.students / times.median("loop"),
        "auto_is_vmap": float(chosen == "vmap"),
    }
    return values, 2 * (size.pieces + 1) * steps * case.students


def _gradient(case: Measured, task: Task, seed: int, size: Size) -> tuple[dict[str, float], int]:
    """Episodes with the action gradient over episodes without it."""
    horizon, students = 2 * case.steps(size), case.students
    settings = case.options(task) | {"horizon": horizon}

    def make() -> Any:
        return TeachEnv(**settings) if students == 1 else TeachVectorEnv(students, **settings)

    def episodes(env: Any) -> Callable[[], float]:
        neutral = np.zeros(env.action_space.shape, dtype=np.float32)

        def episode() -> float:
            env.reset(seed=seed)
            return seconds_of(lambda: [env.step(neutral) for _ in range(horizon)])

        return episode

    wrapper = ActionGradient if students == 1 else VectorActionGradient
    taught = wrapper(make(), case.method)
    times = in_turns({"plain": episodes(make()), "taught": episodes(taught)}, size.pieces)
    values = {
        "gradient_ratio": times.ratio("taught", "plain"),
        "student_steps_per_second": horizon * students / times.median("taught"),
        "plain_steps_per_second": horizon * students / times.median("plain"),
    }
    return values, 2 * (size.pieces + 1) * horizon * students


_MEASUREMENTS: dict[str, Callable[[Measured, Task, int, Size], tuple[dict[str, float], int]]] = {
    "step": _against_torch,
    "vector": _against_singles,
    "paths": _vmap_against_loop,
    "gradient": _gradient,
}
