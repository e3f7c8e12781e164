"""Scores of methods of data attribution, and their times."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from benchmarks.attribution.methods import METHODS, Trained
from benchmarks.attribution.settings import Setting
from benchmarks.attribution.trainings import NETWORKS, RETRAINED, SHARES
from teachenv.experiment.cases import Outcome
from teachenv.experiment.timing import in_turns, seconds_of

FAILURES = (ImportError, RuntimeError, TypeError, AttributeError, ValueError, MemoryError)
"""What a peer may fail with, among it that it is not installed, or another version than it was written for here."""


def lds(values: NDArray[np.floating], left_out: NDArray[np.bool_], losses: NDArray[np.floating]) -> float:
    """The linear datamodelling score: the mean over tests of Spearman's correlation of predicted and measured losses.

    Args:
        values: (tests, samples), positive where a sample raises the test's loss.
        left_out: (training runs, samples), which samples each training run goes without.
        losses: (training runs, tests), the tests' losses after each.
    """
    ranks = [rankdata(each, axis=0) for each in (-(left_out.astype(float) @ values.T), losses)]
    predicted, measured = (each - each.mean(0) for each in ranks)
    norms = np.sqrt((predicted**2).sum(0) * (measured**2).sum(0))
    # Of equal predictions, or equal losses, none is ahead of another: they say nothing.
    return float(np.mean(np.divide((predicted * measured).sum(0), norms, out=np.zeros(len(norms)), where=norms > 0)))


def measured(
    method: str, setting: Setting, seed: int, data_root: str | None, networks: Path, folder: Path, **retrained: Path
) -> Outcome:
    """The scores of a method on one training run, and its times; or why there are none.

    Args:
        method: a name in `METHODS`.
        setting: the training's setting.
        seed: the training's seed.
        data_root: the folder of the data sets.
        networks: folder of the trained networks that peers start from.
        folder: is not used.
        **retrained: folders of the retrainings, by metric.
    """
    env = setting.make(data_root)
    tests = setting.tests_of(env)
    trained = Trained(setting, env, seed, tests, **torch.load(networks / NETWORKS))
    one = dataclasses.replace(trained, tests=(tests[0][:1], tests[1][:1]))
    chosen, neutral = METHODS[method], np.zeros(len(env.task.pool[0]), dtype=np.float32)
    choices: list[np.ndarray] = []

    def plain() -> None:
        env.reset(seed=seed)
        env.step(neutral)

    def all_values() -> None:
        choices[:] = chosen.values(trained)

    calls = {"plain": plain, "all": all_values, "one": lambda: chosen.values(one)}
    try:
        chosen.values(one)  # whose time does not count
        times = in_turns(
            {name: partial(seconds_of, call) for name, call in calls.items()}, setting.turns, warm_up=False
        )
        choices = [values for values in choices if np.isfinite(values).all()]
        if not choices:
            raise ValueError("its values are not finite")
    except FAILURES as failure:
        if not chosen.trainings:  # it is ours
            raise
        return failed(failure)
    truths = {share.metric: np.load(retrained[share.metric] / RETRAINED) for share in SHARES}
    scores = [{metric: lds(values, **truth) for metric, truth in truths.items()} for values in choices]
    best = max(scores, key=lambda each: sum(each.values()))
    horizon = env.problem.settings.horizon
    return Outcome(
        values={
            **best,
            "time_ratio_one": chosen.trainings + times.ratio("one", "plain"),
            "time_ratio": chosen.trainings + times.ratio("all", "plain"),
        },
        student_steps=horizon,
        seconds=times.median("all"),
    )


def failed(failure: BaseException) -> Outcome:
    """What a peer's failure leaves: its reason, in the place of numbers."""
    reason = f"not installed: {failure.name}" if isinstance(failure, ModuleNotFoundError) else str(failure)
    data = {"failed": reason.splitlines()[0] if reason else type(failure).__name__}
    return Outcome(values={"failed": 1.0}, data=data, data_of="failed", student_steps=0, seconds=0.0)
