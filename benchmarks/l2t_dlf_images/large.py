"""Whether a student that fills a GPU in the paper can be taught here: a few steps, with time and memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch

import meta
from benchmarks import memory
from benchmarks.jobs import alone
from benchmarks.rows import ResultsFile, Row, git_commit, versions, write_atomically

STUDENTS = ("resnet20", "wrn", "densenet")
STEPS, BATCH = 3, 8


def teach(student: str, threads: int, **options: Any) -> dict[str, Any]:
    """One update of an RMD teacher by one student of a few steps, every state kept.

    Returns:
        `parameters` of the student, `extra_bytes` (peak of resident memory beyond what the process had with its data
        loaded; None where the system does not tell), `seconds`, `largest` (size of a coordinate of the gradient) and
        `dataset`.
    """
    torch.set_num_threads(threads)
    settings = {"horizon": STEPS, "batch_size": BATCH, "dev_size": BATCH, "learning_rate": 0.01, **options}
    env = gym.make("TeachCIFAR-v0", student=student, **settings)
    wrapped = meta.ActionGradient(env, "rmd", memory="states")
    before, start = memory.reset_peak(), time.perf_counter()
    teacher = meta.RMD("AttentionPolicy", wrapped, seed=0)
    gradients: list[float] = []

    def follow(local: dict[str, Any], _: dict[str, Any]) -> bool:
        gradients.extend(abs(info["action_gradient"]).max() for info in local["infos"] if "action_gradient" in info)
        return True

    teacher.learn(STEPS, callback=follow)
    state = env.unwrapped.student  # type: ignore[attr-defined]
    return {
        "parameters": sum(p.numel() for p in state.parameters.values()),
        "extra_bytes": memory.grown(before),
        "seconds": time.perf_counter() - start,
        "largest": float(max(gradients)),
        "dataset": env.unwrapped.teaching.task.dataset,  # type: ignore[attr-defined]
    }


def run(folder: Path, benchmark: str, threads: int, **options: Any) -> None:
    """Teaches each of the students in a process of its own; writes rows and large.md."""
    results = ResultsFile(folder / "large.jsonl")
    config = {"steps": STEPS, "batch_size": BATCH, "threads": threads}
    for student in STUDENTS:
        found = alone(teach, student=student, threads=threads, **options)
        if "failed" in found:
            raise RuntimeError(f"{student}: {found['failed']}")
        about: dict[str, Any] = {"seconds": found["seconds"], "config": config, "git_commit": git_commit()}
        values = {name: found[name] for name in ("extra_bytes", "parameters", "largest") if found[name] is not None}
        results.append(
            [
                Row(
                    benchmark, "large", found["dataset"], student, "rmd", 0, name, float(value), STEPS,
                    versions=versions(), **about,
                )
                for name, value in values.items()
            ]
        )  # fmt: skip
    write_atomically(folder / "large.md", table(results.rows()))


def table(rows: list[Row]) -> str:
    """A line a student, the newest measurement of each."""
    newest = {(row.student, row.metric): row for row in rows}
    lines = [
        f"One update of an RMD teacher: {STEPS} student steps with minibatches of {BATCH}, every state kept.",
        "",
        "| student | parameters | extra memory, GB | seconds | largest coordinate of the gradient | data |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for student in dict.fromkeys(row.student for row in rows):
        row = newest[student, "parameters"]
        extra = newest.get((student, "extra_bytes"))
        lines.append(
            f"| {student} | {row.value:,.0f} | {'' if extra is None else f'{extra.value / 1e9:.2f}'} | "
            f"{row.seconds:.0f} | {newest[student, 'largest'].value:.1e} | {row.dataset} |"
        )
    return "\n".join(lines) + "\n"
