"""Makes the pictures of docs/plots.md: `.venv/bin/python docs/tools/draw_plots.py`, one or two minutes on two cores.

Coefficients and learning curves come from the committed rows of the benchmark `compare`; the samples' pictures from two
small training runs on digits.
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

import meta
import teachenv
from teachenv import plot
from teachenv.experiment import read_rows

ROOT = Path(__file__).resolve().parent.parent.parent
PICTURES = ROOT / "docs" / "images" / "plots"
NOISE, HORIZON, TESTS = 0.2, 150, 60


def main() -> None:
    """Draws and writes all pictures."""
    rows = read_rows(ROOT / "benchmarks" / "results" / "compare" / "results.jsonl")
    taught(rows)
    show("learning_curves", plot.learning_curves([r for r in rows if r.method != "ddpg:default"], "dev_objective"))
    samples()
    wrong_labels()


def taught(rows: list[teachenv.experiment.Row]) -> None:
    """The coefficients of a teacher by RMD on digits with wrong labels, and the loss that they make."""
    data = next(r.data for r in rows if (r.task, r.method, r.seed) == ("digits-noisy-40", "rmd", 0) and r.data)
    phi, steps, classes = np.array(data["coefficients"]), data["actions_at"], 10
    title = "Φ less that of cross-entropy"
    show("coefficients", plot.coefficients(phi, steps=steps, neutral=np.eye(classes), title=title))

    # The other classes share what the label leaves.
    p = np.linspace(0.02, 0.98, 97)
    rest = (1 - p) / (classes - 1)
    losses = [-(row[y] * np.log(p) + (row.sum() - row[y]) * np.log(rest)) for y, row in enumerate(phi[-1][:7])]
    names = [f"label {y}" for y in range(7)]
    show("loss_curves", plot.loss_curves(p, losses, names=names, plain=-np.log(p)))

    # Label 3, for which the teacher credits class 2: they share 90 % of the probability with the other eight.
    y, other = 3, 2
    q = np.linspace(0.02, 0.45, 60)
    left = (1 - q[:, None] - q[None, :]) / (classes - 2)
    maps = {}
    for step, row in zip(steps, phi[:, y], strict=True):
        others = row.sum() - row[y] - row[other]
        maps[f"step {step}"] = -(row[y] * np.log(q)[:, None] + row[other] * np.log(q)[None, :] + others * np.log(left))
    shown = {name: maps[name] for name in (next(iter(maps)), list(maps)[-1])}
    labels = {"x_label": "probability of class 2", "y_label": "probability of the label, 3"}
    show("loss_surface", plot.loss_surface(q, q, shown, **labels))


def samples() -> None:
    """Which samples helped a test, and weights that follow from it, against the samples' losses."""
    options = {"loss": "data-weights", "train_on": "pool", "horizon": HORIZON}
    env = gym.make("TeachDigits-v0", label_noise=NOISE, **options)
    clean = gym.make("TeachDigits-v0", **options).unwrapped.task
    inputs, given = env.unwrapped.task.pool
    tests = tuple(part[:TESTS] for part in clean.test)
    values = meta.attribute(env, tests=tests, seeds=[0]).values

    env.reset(seed=0)
    done = False
    while not done:
        *_, done, _, _ = env.step(np.zeros(env.action_space.shape, dtype=np.float32))
    losses = torch.nn.functional.cross_entropy(env.unwrapped.predict(inputs), given, reduction="none")
    slope = values.mean(0)
    weights = np.clip(1 - slope / np.abs(slope).mean() / 4, 0, 2)  # a step down the tests' mean loss
    wrong = (given != clean.pool[1]).numpy()
    show("sample_weights", plot.sample_weights(losses, weights, wrong=wrong))

    hardest = int(np.argmax(values.max(1)))
    x, y = (part[hardest] for part in tests)
    named = {"labels": given.tolist(), "test_label": int(y)}
    show("attribution", plot.attribution(values[hardest], inputs, x, shape=(8, 8), **named))


def wrong_labels() -> None:
    """The labels of digits that are most likely wrong."""
    pool = gym.make("TeachDigits-v0", label_noise=NOISE).unwrapped.task.pool
    issues = meta.label_issues(tuple(part.numpy() for part in pool), folds=3, repeats=1, rounds=2)
    first = issues.ranked()[:16]
    named = [[issues.classes[label] for label in labels[first]] for labels in (issues.given, issues.likely)]
    show("suspects", plot.suspects(issues.inputs[first], *named, shape=(8, 8)))


def show(name: str, figure: object) -> None:
    """Writes a picture, and says where."""
    print(*plot.save(figure, PICTURES / name, formats=["png"]), flush=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
