"""Whether a student that fills a GPU in the paper can be taught here: a few steps, with time and memory."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback

import meta
from benchmarks.jobs import alone
from teachenv.experiment import memory
from teachenv.experiment.provenance import about
from teachenv.experiment.report import Report
from teachenv.experiment.rows import ResultsFile, Row
from teachenv.experiment.tables import Column, Section, grouped, number

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


def teach(student: str, threads: int, **options: Any) -> dict[str, Any]:
    """One update of an RMD teacher by one student of a few steps, every state kept.

    Returns:
        `parameters` of the student, `extra_bytes` (peak of resident memory beyond what the process had with its data
        loaded; None where the system does not tell), `seconds` (without the warm start), `largest` (the largest size of
        a coordinate of the gradient) and `dataset`.
    """
    torch.set_num_threads(threads)
    sizes = {"horizon": STEPS, "warm_start": WARM_START, "batch_size": BATCH, "dev_size": BATCH}
    settings = {**sizes, "learning_rate": 0.01, **options}
    env = gym.make("TeachCIFAR-v0", student=student, **settings)
    wrapped = meta.ActionGradient(env, "rmd", memory="states")
    before, follow = memory.reset_peak(), _Follow()
    meta.RMD("AttentionPolicy", wrapped, seed=0).learn(STEPS, callback=follow)
    seconds = time.perf_counter() - follow.start
    state = env.unwrapped.student  # type: ignore[attr-defined]
    return {
        "parameters": sum(p.numel() for p in state.parameters.values()),
        "extra_bytes": memory.grown(before),
        "seconds": seconds,
        "largest": float(np.abs(follow.gradients).max()),
        "dataset": env.unwrapped.teaching.task.dataset,  # type: ignore[attr-defined]
    }


def run(folder: Path, benchmark: str, threads: int, **options: Any) -> None:
    """Teaches each of the students in a process of its own; writes rows and large.md."""
    results = ResultsFile(folder / "large.jsonl")
    config = {"steps": STEPS, "warm_start": WARM_START, "batch_size": BATCH, "threads": threads}
    for student in STUDENTS:
        found = alone(teach, student=student, threads=threads, **options)
        if "failed" in found:
            raise RuntimeError(f"{student}: {found['failed']}")
        told = about(STEPS, found["seconds"])
        values = {name: found[name] for name in ("extra_bytes", "parameters", "largest") if found[name] is not None}
        results.append(
            [
                Row(
                    benchmark, "large", found["dataset"], student, "rmd", 0, name, float(value), config=config, **told
                )
                for name, value in values.items()
            ]
        )  # fmt: skip
    report_of(results.rows()).write(folder, "large", "large")


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
