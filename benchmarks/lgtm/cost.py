"""What influence costs: exact, by differences, and sample by sample, on the pre-trained encoder."""

from __future__ import annotations

import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import nn

from meta import INFLUENCE_METHODS, held_out_gradient, influence
from meta.distillation.text import TextClassifier
from teachenv.experiment import memory
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.precision import MatmulPrecision, matmuls
from teachenv.experiment.processes import alone
from teachenv.randomness import Purpose, torch_seed

BATCH, LENGTH, TURNS = 32, 64, 5

# What the seconds of the others are compared with; its rows say that all are there.
REFERENCE = "finite-difference"


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


def cases(benchmark: str, checkpoint: str, name: str) -> list[Case]:
    """The measurements, in each precision of matrix products.

    Args:
        benchmark: its name.
        checkpoint: see `meta.distillation.text.TextClassifier`.
        name: of the encoder in rows.
    """
    return [
        Case(
            benchmark=benchmark,
            task="cost",
            dataset="random tokens",
            student=name,
            method=REFERENCE,
            seed=0,
            config={
                "batch_size": BATCH,
                "length": LENGTH,
                "turns": TURNS,
                "threads": 1,
                "matmul_precision": precision,
            },
            label=f"cost of influence, matrix products in {precision!r} precision",
            function=measured,
            arguments={"checkpoint": checkpoint, "precision": precision},
            last="relative_error",
        )
        for precision in get_args(MatmulPrecision)
    ]


def measured(checkpoint: str, precision: MatmulPrecision, folder: Path) -> Outcome:
    """Time, memory and error of all methods."""
    start, seconds, errors = time.perf_counter(), *times(checkpoint, precision)
    values = {}
    for method in INFLUENCE_METHODS:
        found = {
            "seconds": seconds[method],
            "time_ratio": seconds[method] / seconds[REFERENCE],
            # In a process of its own, which has used no memory before.
            "extra_bytes": alone(peak, checkpoint=checkpoint, method=method),
            "relative_error": errors[method],
        }
        values[method] = {name: value for name, value in found.items() if value is not None}
    own = values.pop(REFERENCE)
    return Outcome(values=own, student_steps=0, seconds=time.perf_counter() - start, others=values)


def times(checkpoint: str, precision: MatmulPrecision) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each method, in turns in one process, and each one's error against the float64 oracle."""
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
    return {name: statistics.median(own) for name, own in seconds.items()}, errors


def peak(checkpoint: str, method: str) -> int | None:
    """Resident memory that one call adds to the process, at its peak; None where the system does not tell."""
    torch.set_num_threads(1)
    student, batch, v = _problem(checkpoint)
    before = memory.reset_peak()
    influence(student, _losses, batch, v, method=method)  # type: ignore[arg-type]
    return memory.grown(before)
