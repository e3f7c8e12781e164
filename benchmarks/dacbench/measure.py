"""The three measurements: trajectories and baselines on both libraries, and how fast each is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.dacbench import theirs
from benchmarks.dacbench.adapter import SGDEnv
from benchmarks.dacbench.baselines import BASELINES
from benchmarks.dacbench.cases import Measured, Size
from benchmarks.dacbench.files import Images
from benchmarks.dacbench.instance import BASE_RATE, LARGEST_RATE, WEIGHT_DECAY, Instance
from teachenv.env import TeachEnv
from teachenv.experiment.cases import DIVERGED, Outcome
from teachenv.experiment.timing import Times, in_turns, seconds_of
from teachenv.tasks.base import Task
from teachenv.vector_env import TeachVectorEnv

_SMALLEST_RATE = 1e-4


def measure(case: Measured, images: Images, seed: int, size: Size, compared: bool, folder: Path) -> Outcome:
    """Takes the measurement of a case.

    Args:
        case: what is measured.
        images: the data.
        seed: of the repetition.
        size: how much is measured.
        compared: whether DACBench is measured too.
        folder: where the images are written for DACBench.
    """
    images.write(folder)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=[]):  # DACBench draws from the global generator
        values, student_steps = _MEASUREMENTS[case.measurement](case, images.task(), seed, size, compared, folder)
    return Outcome(values=values, student_steps=student_steps, seconds=time.perf_counter() - start)


Values = tuple[dict[str, float], int]


def _trajectory(case: Measured, task: Task, seed: int, size: Size, compared: bool, folder: Path) -> Values:
    """The largest differences between the two in an episode of random learning rates."""
    instance = case.instance(seed)
    ours, peer = SGDEnv(instance, task), theirs.make(instance, folder)
    ours.reset()
    peer.reset()
    rates = np.exp(np.random.default_rng(seed).uniform(np.log(_SMALLEST_RATE), np.log(LARGEST_RATE), case.actions))
    differences = []
    for rate in rates.tolist():
        state, reward, *_ = ours.step(rate)
        expected, expected_reward, *_ = peer.step(rate)
        named = dict(peer.model.named_parameters())
        differences.append(
            {
                "parameters": max(
                    float((p - named[n].detach()).abs().max()) for n, p in ours.student.parameters.items()
                ),
                "loss": abs(state["loss"] - expected["loss"]),
                "validation_loss": abs(state["validation_loss"] - float(expected["validation_loss"])),
                "test_loss": abs(reward - expected_reward),
            }
        )
    largest = {f"{name}_difference": max(each[name] for each in differences) for name in differences[0]}
    steps = 2 * case.actions * instance.steps_per_action(len(task.pool[0]))
    return largest | {"validation_loss": state["validation_loss"]}, steps


def _baseline(case: Measured, task: Task, seed: int, size: Size, compared: bool, folder: Path) -> Values:
    """A whole training run under a baseline: what it ends at."""
    instance = case.instance(seed)
    rates = BASELINES[str(case.baseline)](case.actions, seed)
    values = _episode(SGDEnv(instance, task), rates)
    if compared:
        values |= {f"dacbench_{name}": value for name, value in _episode(theirs.make(instance, folder), rates).items()}
    if any(name.endswith(DIVERGED) for name in values):
        values[DIVERGED] = 1.0
    return values, (1 + compared) * case.actions * instance.steps_per_action(len(task.pool[0]))


def _episode(env: Any, rates: Sequence[float]) -> dict[str, float]:
    """Test loss and accuracy at the end of an episode."""
    env.reset()
    for rate in rates:
        state, reward, _, ended, _ = env.step(rate)
        if ended:
            break
    if "test_losses" not in state:
        return {DIVERGED: 1.0}
    return {"test_loss": -float(reward), "test_accuracy": float(state["test_accuracies"].mean())}


def _speed(case: Measured, task: Task, seed: int, size: Size, compared: bool, folder: Path) -> Values:
    """Student steps per second, and their ratios in the same turn."""
    instance = case.instance(seed, cutoff=(size.turns + 1) * case.actions + 1)  # so that no episode ends
    steps = case.actions * instance.steps_per_action(len(task.pool[0]))
    contenders = {
        "plain": (_plain(instance, task, seed), 1),
        "single": (_single(instance, task, seed), 1),
        "vector": (_vector(instance, task, seed, case.students), case.students),
    }
    if compared:
        contenders["dacbench"] = (_dacbench(instance, folder), 1)
    times = in_turns(
        {
            name: partial(_turn, action, case.actions, steps * students)
            for name, (action, students) in contenders.items()
        },
        size.turns,
    )
    spent = sum(steps * students * (size.turns + 1) for _, students in contenders.values())
    return _ratios(times), spent


def _turn(action: Callable[[], object], actions: int, student_steps: int) -> float:
    """The seconds of a student step."""
    return sum(seconds_of(action) for _ in range(actions)) / student_steps


def _ratios(times: Times) -> dict[str, float]:
    values = {f"{name}_steps_per_second": 1 / times.median(name) for name in times.turns}
    values["vector_over_plain"] = times.ratio("plain", "vector")
    for name in ("plain", "single", "vector") if "dacbench" in times.turns else ():
        values[f"{name}_speedup"] = times.ratio("dacbench", name)
    return values


def _single(instance: Instance, task: Task, seed: int) -> Callable[[], object]:
    env, rng = TeachEnv(**instance.options(task)), np.random.default_rng(seed)
    env.reset(seed=seed)
    return lambda: env.step(rng.uniform(-1, 1, 1).astype(np.float32))


def _vector(instance: Instance, task: Task, seed: int, students: int) -> Callable[[], object]:
    envs, rng = TeachVectorEnv(students, **instance.options(task)), np.random.default_rng(seed)
    envs.reset(seed=seed)
    return lambda: envs.step(rng.uniform(-1, 1, (students, 1)).astype(np.float32))


def _dacbench(instance: Instance, folder: Path) -> Callable[[], object]:
    env, rng = theirs.make(instance, folder), np.random.default_rng(instance.seed)
    env.reset()
    return lambda: env.step(BASE_RATE * 10 ** float(rng.uniform(-1, 1)))


def _plain(instance: Instance, task: Task, seed: int) -> Callable[[], object]:
    actions = plain_actions(instance, task, seed)
    return lambda: next(actions)


def plain_actions(instance: Instance, task: Task, seed: int) -> Iterator[float]:
    """Trains as anybody would who has the data as tensors; gives the validation loss after each action."""
    network, rng = instance.network(), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
    (inputs, targets), options = task.pool, instance.options(task)
    order = torch.from_numpy(rng.permutation(len(targets)))
    train, validation = order[options["dev_size"] :], order[: options["dev_measured"]]
    batches: list[torch.Tensor] = []
    while True:
        optimizer.param_groups[0]["lr"] = BASE_RATE * 10 ** float(rng.uniform(-1, 1))
        network.train()
        for _ in range(options["steps_per_action"]):
            if not batches:
                batches = list(torch.split(train[torch.from_numpy(rng.permutation(len(train)))], instance.batch_size))
            indices = batches.pop()
            optimizer.zero_grad()
            loss = F.nll_loss(network(inputs[indices]), targets[indices])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()  # which the others report too
        network.eval()
        with torch.no_grad():
            validated = F.nll_loss(network(inputs[validation]), targets[validation]).item()
        yield validated  # outside of the block, which would hold for others meanwhile


_MEASUREMENTS: dict[str, Callable[[Measured, Task, int, Size, bool, Path], Values]] = {
    "trajectory": _trajectory,
    "baseline": _baseline,
    "speed": _speed,
}
