"""What an iteration of L2T-DLN costs, against the 2N plain student steps that it contains, by the window's length N."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym

import meta
from teachenv.env import TeachEnv
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.timing import in_turns, seconds_of

LENGTHS = (1, 5, 15, 30)
TURNS = 5
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("TeachDigits-v0", {"batch_size": 25}),
    "resnet8": ("TeachCIFAR-v0", {"dataset": "synthetic", "pool_size": 1000, "batch_size": 25}),
}


def times(env_id: str, options: Mapping[str, Any], length: int, folder: Path) -> Outcome:
    """Median seconds of 2N plain steps, of a window's hypergradient, and of a whole iteration, in turns."""
    windows = 2 * TURNS + 4
    env = gym.make(
        env_id, loss="dynamic-network", horizon=windows * length, steps_per_action=length, dev_size=200, **options
    ).unwrapped
    assert isinstance(env, TeachEnv)
    wrapped = meta.WindowGradient(env, dev_batch=100)
    teacher = meta.DynamicLossTeacher("LSTMPolicy", wrapped, seed=0)
    teacher.learn(1, log_interval=None)

    def plain() -> None:
        state, neutral = env.student, env.problem.neutral_action
        for _ in range(2 * length):
            # The same minibatches twice, as the two stages have them.
            if int(state.step) - int(env.student.step) == length:
                state = env.student
            state, _ = env.dynamics.step(state, env.episode, neutral)

    contenders: dict[str, Callable[[], Any]] = {
        "plain": plain,
        "hypergradient": lambda: wrapped.through(env.student, env.action),
        "iteration": lambda: teacher.learn(1, log_interval=None, reset_num_timesteps=False),
    }
    measured = in_turns({name: partial(seconds_of, contender) for name, contender in contenders.items()}, TURNS)
    values = {f"{name}_seconds": measured.median(name) for name in contenders}
    return Outcome(values=values, student_steps=2 * length, seconds=sum(values.values()))


def cases(benchmark: str) -> list[Case]:
    """The cases of the timings."""
    return [
        Case(
            benchmark=benchmark,
            task="cost",
            dataset="synthetic" if "dataset" in options else "digits",
            student=student,
            method=f"n-{length}",
            seed=0,
            config={"stage": "cost", "env": env_id, "options": options, "n": length, "threads": 1},
            label=f"cost of a window of {length} steps, {student}",
            function=times,
            arguments={"env_id": env_id, "options": options, "length": length},
            last="iteration_seconds",
        )
        for student, (env_id, options) in CASES.items()
        for length in LENGTHS
    ]
