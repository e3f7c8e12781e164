"""What an iteration of L2T-DLN costs, against the 2N plain student steps that it contains, by the window's length N."""

from __future__ import annotations

import statistics
import time
from typing import Any

import gymnasium as gym
import torch

import meta
from benchmarks.jobs import alone
from teachenv.env import TeachEnv
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row

LENGTHS = (1, 5, 15, 30)
TURNS = 5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("TeachDigits-v0", {"batch_size": 25}),
    "resnet8": ("TeachCIFAR-v0", {"dataset": "synthetic", "pool_size": 1000, "batch_size": 25}),
}


def times(case: str, length: int, threads: int) -> dict[str, Any]:
    """Median seconds of 2N plain steps, of a window's hypergradient, and of a whole iteration, in turns."""
    torch.set_num_threads(threads)
    env_id, options = CASES[case]
    windows = 2 * TURNS + 4
    env = gym.make(
        env_id, loss="dynamic-network", horizon=windows * length, steps_per_action=length, dev_size=200, **options
    ).unwrapped
    assert isinstance(env, TeachEnv)
    wrapped = meta.WindowGradient(env, dev_batch=100)
    teacher = meta.DynamicLossTeacher("LSTMPolicy", wrapped, seed=0)
    found: dict[str, list[float]] = {"plain": [], "hypergradient": [], "iteration": []}
    teacher.learn(1, log_interval=None)  # what is done once only
    for _ in range(TURNS):
        state, neutral = env.student, env.teaching.neutral_action
        start = time.perf_counter()
        for _ in range(2 * length):
            # The same minibatches twice, as the two stages have them.
            if int(state.step) - int(env.student.step) == length:
                state = env.student
            state, _ = env.dynamics.step(state, env.episode, neutral)
        found["plain"].append(time.perf_counter() - start)
        start = time.perf_counter()
        wrapped.through(env.student, env.action)
        found["hypergradient"].append(time.perf_counter() - start)
        start = time.perf_counter()
        teacher.learn(1, log_interval=None, reset_num_timesteps=False)
        found["iteration"].append(time.perf_counter() - start)
    return {name: statistics.median(own) for name, own in found.items()}


def run(results: ResultsFile, benchmark: str, threads: int = 1) -> None:
    """Measures what is not there yet, each case in a process of its own."""
    for case, (env_id, options) in CASES.items():
        for length in LENGTHS:
            identity: dict[str, Any] = {
                "benchmark": benchmark,
                "task": "cost",
                "dataset": "synthetic" if "dataset" in options else "digits",
                "student": case,
                "method": f"n-{length}",
                "seed": 0,
                "config": {"stage": "cost", "env": env_id, "options": options, "n": length, "threads": threads},
            }
            if results.done(**identity, metrics=["iteration_seconds"]):
                continue
            found: dict[str, Any] = alone(times, case=case, length=length, threads=threads)
            if "failed" in found:
                raise RuntimeError(f"the cost of windows of {length} steps: {found['failed']}")
            told = about(2 * length, sum(found.values()))
            results.append(
                [Row(**identity, metric=f"{name}_seconds", value=value, **told) for name, value in found.items()]
            )
