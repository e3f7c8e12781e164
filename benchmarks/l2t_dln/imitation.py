"""Whether a loss network recovers cross-entropy from scratch: how near a random one comes, by steps of imitation."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch.nn import functional as F

from benchmarks.measurements import Measurement, measure
from teachenv.experiment.provenance import about
from teachenv.experiment.rows import ResultsFile, Row
from teachenv.losses.dynamic_network import evaluate, imitate, initial_weights, one_against_one

STEPS = (0, 100, 300, 1000, 3000, 10_000)
SEEDS = 3
_REACH = 3.0  # logits between which the two losses are compared


def imitated(steps: int, seed: int) -> dict[str, Any]:
    """Cosine of the slopes of both losses, their relative error, and the loss along the difference of the logits."""
    start = time.perf_counter()
    weights = initial_weights("random", seed).double()
    if steps:
        weights = imitate("cross-entropy", weights, steps, seed)
    z = torch.linspace(-_REACH, _REACH, 41, dtype=torch.float64)
    logits = torch.cartesian_prod(z, z).requires_grad_()
    targets = torch.zeros(len(logits), dtype=torch.long)
    (found,) = torch.autograd.grad(evaluate(weights, one_against_one(logits, targets)).sum(), logits)
    (wanted,) = torch.autograd.grad(F.softplus(logits[:, 1] - logits[:, 0]).sum(), logits)
    along = torch.stack([z, torch.zeros_like(z)], 1)
    values = evaluate(weights, one_against_one(along, targets[: len(z)])).sum(1)
    return {
        "slope_cosine": float((found * wanted).sum() / (found.norm() * wanted.norm())),
        "slope_error": float((found - wanted).norm() / wanted.norm()),
        "curve": [[round(float(x), 4) for x in z], [round(float(v), 4) for v in values]],
        "seconds": time.perf_counter() - start,
    }


def run(results: ResultsFile, benchmark: str, workers: int) -> None:
    """Measures what is not there yet."""
    # Long ones first: begun last, they would leave the other cores idle.
    measure(
        [_measurement(benchmark, steps, seed) for steps in reversed(STEPS) for seed in range(SEEDS)], results, workers
    )


def _measurement(benchmark: str, steps: int, seed: int) -> Measurement[dict[str, Any]]:
    identity: dict[str, Any] = {
        "benchmark": benchmark,
        "task": "imitation",
        "dataset": "normal logits",
        "student": "none",
        "method": f"steps-{steps}",
        "seed": seed,
        "config": {"stage": "imitation", "steps": steps, "reach": _REACH},
    }

    def rows(found: dict[str, Any]) -> list[Row]:
        told = about(0, found["seconds"])
        return [
            Row(**identity, metric=name, value=found[name], data=data, **told)
            for name, data in (("slope_cosine", None), ("slope_error", found["curve"]))
        ]

    label = f"imitation of cross-entropy: {steps} steps, seed {seed}"
    return Measurement(label, imitated, {"steps": steps, "seed": seed}, identity, "slope_error", rows, resumes=False)
