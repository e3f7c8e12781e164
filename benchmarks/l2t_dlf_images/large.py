"""Whether a student that fills a GPU in the paper can be taught here: a few steps, with time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

import meta
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.processes import alone
from teachenv.experiment.report import Report
from teachenv.experiment.row import Row
from teachenv.experiment.tables import Column, Section, grouped, number
from teachenv.experiment.timing import peak
from teachenv.tasks import make_task

STUDENTS = ("resnet20", "wrn", "densenet")
STEPS, BATCH = 3, 8

# DenseNet-BC's 190 layers amplify what their running statistics are off by: the logits of a new one in evaluation are
# 1e11, after three steps still 1e4, where the smoothed accuracy is flat.
WARM_START = 25


class _Follow(BaseCallback):
    """Notes the gradients of whole episodes, and when learning begins: students have had their warm start by then."""

    def __init__(self) -> None:
        super().__init__()
        self.gradients: list[np.ndarray] = []
        self.start = math.nan

    def _on_training_start(self) -> None:
        self.start = time.perf_counter()

    def _on_step(self) -> bool:
        self.gradients += [info["action_gradient"] for info in self.locals["infos"] if "action_gradient" in info]
        return True


def cases(benchmark: str, threads: int, **options: Any) -> list[Case]:
    """A case for each of the students; `options` of the environment."""
    source = {name: options[name] for name in ("data_root", "dataset", "pool_size") if name in options}
    dataset = make_task("cifar10", **source).dataset
    return [
        Case(
            benchmark=benchmark,
            task="large",
            dataset=dataset,
            student=student,
            method="rmd",
            seed=0,
            config={"steps": STEPS, "warm_start": WARM_START, "batch_size": BATCH, "threads": threads},
            label=f"{STEPS} steps of {student}",
            function=measure,
            arguments={"student": student, "options": options},
            last="largest",
            resources={"num_cpus": threads},
        )
        for student in STUDENTS
    ]


def measure(student: str, options: Mapping[str, Any], folder: Path) -> Outcome:
    """Calls `teach` in a process of its own."""
    return alone(teach, student=student, options=options)


def teach(student: str, options: Mapping[str, Any]) -> Outcome:
    """One update of an RMD teacher by one student of a few steps, every state kept.

    Returns:
        `parameters` of the student, `extra_bytes` (peak of resident memory beyond what the process had with its data
        loaded; left out where the system does not tell) and `largest` (the largest size of a coordinate of the
        gradient); seconds without the warm start.
    """
    sizes = {"horizon": STEPS, "warm_start": WARM_START, "batch_size": BATCH, "dev_size": BATCH}
    env = gym.make("TeachCIFAR-v0", student=student, **{**sizes, "learning_rate": 0.01, **options})
    wrapped, follow = meta.ActionGradient(env, "rmd", memory="states"), _Follow()
    grown, _ = peak(lambda: meta.RMD("AttentionPolicy", wrapped, seed=0).learn(STEPS, callback=follow))
    seconds = time.perf_counter() - follow.start
    state = env.unwrapped.student  # type: ignore[attr-defined]
    return Outcome(
        values={
            **({} if grown is None else {"extra_bytes": grown}),
            "parameters": sum(p.numel() for p in state.parameters.values()),
            "largest": float(np.abs(follow.gradients).max()),
        },
        student_steps=STEPS,
        seconds=seconds,
    )


def report_of(rows: Sequence[Row]) -> Report:
    """A line a student, the newest measurement of each."""
    columns = [
        Column("student", lambda group: group.name),
        number("parameters", "parameters", ",.0f"),
        number("extra memory, GB", "extra_bytes", ".2f", 1e-9),
        Column("seconds", lambda group: f"{group.seconds('parameters'):.0f}"),
        number("largest coordinate of the gradient", "largest", ".1e"),
        Column("data", lambda group: group.first.dataset),
    ]
    text = (
        f"One update of an RMD teacher: {STEPS} student steps with minibatches of {BATCH}, every state kept,\n"
        f"after {WARM_START} steps of cross-entropy (not in the seconds)."
    )
    section = Section.of("", columns, grouped(rows, key=lambda row: row.student), text)
    return Report("L2T-DLF: large students", [section], {}, rows)
