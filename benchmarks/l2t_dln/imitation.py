"""Whether a loss network recovers cross-entropy from scratch: how near a random one comes, by steps of imitation."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from torch.nn import functional as F

from teachenv.experiment.cases import Case, Outcome
from teachenv.losses.dynamic_network import evaluate, imitate, initial_weights, one_against_one

STEPS = (0, 100, 300, 1000, 3000, 10_000)
SEEDS = 3
_REACH = 3.0  # logits between which the two losses are compared


def imitated(steps: int, seed: int, folder: Path) -> Outcome:
    """Cosine of the slopes of both losses, their relative error, and the loss along the difference of the logits."""
    start = time.perf_counter()
    weights = initial_weights("random", seed).double()
    if steps:
        weights = imitate("cross-entropy", weights, steps, seed)
    z = torch.linspace(-_REACH, _REACH, 41, dtype=torch.float64)
    logits = torch.cartesian_prod(z, z).requires_grad_()
    targets = torch.zeros(len(logits), dtype=torch.long)
    (slopes,) = torch.autograd.grad(evaluate(weights, one_against_one(logits, targets)).sum(), logits)
    (expected,) = torch.autograd.grad(F.softplus(logits[:, 1] - logits[:, 0]).sum(), logits)
    along = torch.stack([z, torch.zeros_like(z)], 1)
    values = evaluate(weights, one_against_one(along, targets[: len(z)])).sum(1)
    return Outcome(
        values={
            "slope_cosine": float((slopes * expected).sum() / (slopes.norm() * expected.norm())),
            "slope_error": float((slopes - expected).norm() / expected.norm()),
        },
        student_steps=0,
        seconds=time.perf_counter() - start,
        data=[line.round(decimals=4).tolist() for line in (z, values.detach())],
    )


def cases(benchmark: str) -> list[Case]:
    """The cases of all imitations, long ones first: begun last, they would leave the other cores idle."""
    return [
        Case(
            benchmark=benchmark,
            task="imitation",
            dataset="normal logits",
            student="none",
            method=f"steps-{steps}",
            seed=seed,
            config={"stage": "imitation", "steps": steps, "reach": _REACH},
            label=f"imitation of cross-entropy: {steps} steps, seed {seed}",
            function=imitated,
            arguments={"steps": steps, "seed": seed},
            last="slope_error",
        )
        for steps in reversed(STEPS)
        for seed in range(SEEDS)
    ]
