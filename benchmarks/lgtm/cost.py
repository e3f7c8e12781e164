"""What influence costs: exact, by differences, and sample by sample, on the pre-trained encoder."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import nn

from meta import INFLUENCE_METHODS, held_out_gradient, influence
from meta.distillation.text import TextClassifier
from teachenv.experiment.cases import Case, Outcome
from teachenv.experiment.precision import MatmulPrecision, matmuls
from teachenv.experiment.processes import alone
from teachenv.experiment.timing import Times, in_turns, peak, seconds_of
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
    """The measurements, in each precision of matrix products; `name` is the encoder's in rows."""
    shared = {"batch_size": BATCH, "length": LENGTH, "turns": TURNS, "threads": 1}
    return [
        Case(
            benchmark=benchmark,
            task="cost",
            dataset="random tokens",
            student=name,
            method=REFERENCE,
            seed=0,
            config=shared | {"matmul_precision": precision},
            label=f"cost of influence, matrix products in {precision!r} precision",
            function=measured,
            arguments={"checkpoint": checkpoint, "precision": precision},
            last="relative_error",
        )
        for precision in get_args(MatmulPrecision)
    ]


def measured(checkpoint: str, precision: MatmulPrecision, folder: Path) -> Outcome:
    """Time, memory and error of all methods."""
    times, errors = _times(checkpoint, precision)
    outcomes: dict[str, Outcome] = {}
    for method in INFLUENCE_METHODS:
        seconds = times.median(method)
        extra = alone(_peak, checkpoint=checkpoint, method=method)
        values = {
            "seconds": seconds,
            "time_ratio": times.ratio(method, REFERENCE),
            **({} if extra is None else {"extra_bytes": extra}),
            "relative_error": errors[method],
        }
        outcomes[method] = Outcome(values=values, student_steps=0, seconds=seconds)
    return replace(outcomes.pop(REFERENCE), others=outcomes)


def _times(checkpoint: str, precision: MatmulPrecision) -> tuple[Times, dict[str, float]]:
    """What turns of each method take, and each one's error against the float64 oracle."""
    student, batch, v = _problem(checkpoint)
    calls = {name: partial(influence, student, _losses, batch, v, method=name) for name in INFLUENCE_METHODS}
    with matmuls(precision):
        influences = {name: call() for name, call in calls.items()}
        times = in_turns({name: partial(seconds_of, call) for name, call in calls.items()}, TURNS)
    double = {name: tensor.double() for name, tensor in v.items()}
    oracle = influence(student.double(), _losses, batch, double, method="per-sample")
    return times, {name: float((value.double() - oracle).norm() / oracle.norm()) for name, value in influences.items()}


def _peak(checkpoint: str, method: str) -> int | None:
    student, batch, v = _problem(checkpoint)
    extra, _ = peak(lambda: influence(student, _losses, batch, v, method=method))  # type: ignore[arg-type]
    return extra
