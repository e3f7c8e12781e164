"""What influence costs: exact, by differences, and sample by sample, on the pre-trained encoder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.jobs import alone
from meta import INFLUENCE_METHODS, held_out_gradient, influence
from meta.distillation.text import TextClassifier
from teachenv.experiment import memory
from teachenv.experiment.precision import MatmulPrecision, matmuls
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row
from teachenv.randomness import Purpose, torch_seed

BATCH, LENGTH, TURNS = 32, 64, 5


def _losses(student: nn.Module, batch: Any) -> torch.Tensor:
    inputs, targets = batch
    return F.cross_entropy(student(inputs).logits, targets, reduction="none")


def _problem(checkpoint: str) -> tuple[nn.Module, Any, dict[str, torch.Tensor]]:
    """The encoder with a classifier, a minibatch of random tokens, and a held-out gradient of unit length."""
    with torch_seed(0, Purpose.INIT):
        student = TextClassifier(checkpoint, 2, zero_classifier=False)
        words = student.encoder.config.vocab_size
    with torch_seed(0, Purpose.BATCHES):
        batch, held_out = (
            (
                {
                    "input_ids": torch.randint(words // 2, words, (BATCH, LENGTH)),
                    "attention_mask": torch.ones(BATCH, LENGTH, dtype=torch.long),
                },
                torch.randint(2, (BATCH,)),
            )
            for _ in range(2)
        )
    return student, batch, held_out_gradient(student, _losses, held_out)


def times(checkpoint: str, threads: int, precision: MatmulPrecision) -> dict[str, Any]:
    """Median seconds of each method, in turns in one process, and each one's error against the float64 oracle."""
    torch.set_num_threads(threads)
    student, batch, v = _problem(checkpoint)
    calls = {name: partial(influence, student, _losses, batch, v, method=name) for name in INFLUENCE_METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    with matmuls(precision):
        found = {name: call() for name, call in calls.items()}
        for _ in range(TURNS):
            for name, call in calls.items():
                start = time.perf_counter()
                call()
                seconds[name].append(time.perf_counter() - start)
    double = {name: tensor.double() for name, tensor in v.items()}
    oracle = influence(student.double(), _losses, batch, double, method="per-sample")
    errors = {name: float((value.double() - oracle).norm() / oracle.norm()) for name, value in found.items()}
    return {"seconds": {name: statistics.median(own) for name, own in seconds.items()}, "errors": errors}


def peak(checkpoint: str, method: str, threads: int) -> dict[str, Any]:
    """Resident memory that one call adds to the process, at its peak; None where the system does not tell."""
    torch.set_num_threads(threads)
    student, batch, v = _problem(checkpoint)
    before = memory.reset_peak()
    influence(student, _losses, batch, v, method=method)  # type: ignore[arg-type]
    return {"extra_bytes": memory.grown(before)}


def run(results: ResultsFile, checkpoint: str, name_of_it: str, benchmark: str, threads: int = 1) -> None:
    """Measures what is not there yet, each in a process of its own."""
    for precision in get_args(MatmulPrecision):
        config = {
            "batch_size": BATCH,
            "length": LENGTH,
            "turns": TURNS,
            "threads": threads,
            "matmul_precision": precision,
        }
        identity: dict[str, Any] = {
            "benchmark": benchmark,
            "task": "cost",
            "dataset": "random tokens",
            "student": name_of_it,
            "seed": 0,
            "config": config,
        }
        if all(results.done(**identity, method=name, metrics=["relative_error"]) for name in INFLUENCE_METHODS):
            continue
        found = _measured(times, checkpoint=checkpoint, threads=threads, precision=precision)
        for name in INFLUENCE_METHODS:
            grown = _measured(peak, checkpoint=checkpoint, method=name, threads=threads)["extra_bytes"]
            values = {
                "seconds": found["seconds"][name],
                "time_ratio": found["seconds"][name] / found["seconds"]["finite-difference"],
                "extra_bytes": grown,
                "relative_error": found["errors"][name],
            }
            told = about(0, found["seconds"][name])
            results.append(
                [
                    Row(**identity, method=name, metric=metric, value=value, **told)
                    for metric, value in values.items()
                    if value is not None
                ]
            )


def _measured(function: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
    found: dict[str, Any] = alone(function, **arguments)
    if "failed" in found:
        raise RuntimeError(f"the cost of influence: {found['failed']}")
    return found
