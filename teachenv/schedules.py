"""Learning-rate schedules: pure functions of the student step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from teachenv import checks

Schedule = Callable[[np.ndarray | int], np.ndarray | float]
"""Maps student step(s) t = 0 … horizon − 1 to the factor(s) by which the base learning rate is multiplied."""

SCHEDULES = ("constant", "linear", "cosine", "step", "one-cycle")


def make_schedule(spec: str | Mapping[str, Any], horizon: int) -> Schedule:
    """Builds a schedule: a function of the student step to the learning rate's factor.

    Args:
        spec: `"constant"` (1), `"linear"` (1 − t/horizon), `"cosine"` (½(1 + cos πt/horizon)), `"step"` (divided by 10
            after one half and after three quarters of the horizon), `"one-cycle"` (from 1/25 up to 1 over the first
            three tenths of the horizon and down to 4e-6 over the rest, half a cosine each way: PyTorch's `OneCycleLR`
            with its defaults, without its cycle of momentum; Smith and Topin 2018), or a mapping
            `{"name": "step", "milestones": [30, 45], "gamma": 0.1}` with milestones in student steps.
        horizon: student steps in an episode.

    Raises:
        ValueError: an unknown kind, a gamma that is no finite number of at least 0, or milestones that are no
            increasing numbers of at least 0.
        TypeError: an option that the kind does not have.
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    kind = checks.choice("lr_schedule", options.pop("name", None), SCHEDULES)
    checks.known_options(f"lr_schedule {kind!r}", options, ("milestones", "gamma") if kind == "step" else ())
    if kind == "step":
        return _step(options.get("milestones", (horizon / 2, horizon * 3 / 4)), options.get("gamma", 0.1))
    return partial(
        {"constant": _constant, "linear": _linear, "cosine": _cosine, "one-cycle": _one_cycle}[kind], horizon
    )


def shortest(spec: str | Mapping[str, Any], horizon: int) -> str | dict[str, Any]:
    """The schedule without options that are at their defaults, the same for all ways to write it.

    Args:
        spec: a schedule that `make_schedule` takes.
        horizon: student steps in an episode.
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"name": spec}
    usual = {"milestones": [horizon / 2, horizon * 3 / 4], "gamma": 0.1}
    if "milestones" in options:
        options["milestones"] = [float(milestone) for milestone in options["milestones"]]
    if "gamma" in options:
        options["gamma"] = float(options["gamma"])
    options = {name: value for name, value in options.items() if name not in usual or value != usual[name]}
    return options if len(options) > 1 else str(options["name"])


# Functions of the module, not lambdas, so that environments can be pickled.


def _constant(horizon: int, step: np.ndarray | int) -> np.ndarray | float:
    return step * 0.0 + 1.0


def _linear(horizon: int, step: np.ndarray | int) -> np.ndarray | float:
    return 1.0 - step / horizon


def _cosine(horizon: int, step: np.ndarray | int) -> np.ndarray | float:
    return 0.5 * (1.0 + np.cos(np.pi * step / horizon))


def _one_cycle(horizon: int, step: np.ndarray | int) -> np.ndarray | float:
    peak, last = 0.3 * horizon - 1, horizon - 1
    # Of a training so short that nothing comes before the peak the first step is the peak.
    up = 1.0 if peak <= 0 else np.clip(step / peak, 0.0, 1.0)
    down = np.clip((step - max(peak, 0)) / max(last - max(peak, 0), 1e-9), 0.0, 1.0)
    rising = _between(1 / 25, 1.0, up)
    return np.where(np.asarray(step) <= peak, rising, _between(1.0, 1 / 25e4, down))[()]


def _between(start: float, end: float, part: np.ndarray | float) -> np.ndarray | float:
    """Half a cosine from `start` (part 0) to `end` (part 1)."""
    return end + (start - end) * 0.5 * (1.0 + np.cos(np.pi * part))


def _stepped(bounds: np.ndarray, factor: float, step: np.ndarray | int) -> np.ndarray | float:
    return factor ** np.searchsorted(bounds, step, side="right")


def _step(milestones: object, gamma: object) -> Schedule:
    factor = checks.number("lr_schedule's gamma", gamma, least=0)
    steps = checks.listed("lr_schedule's milestones", milestones, "student steps")
    bounds = np.array([checks.number(f"lr_schedule's milestones[{i}]", m, least=0) for i, m in enumerate(steps)])
    if bool(np.any(np.diff(bounds) <= 0)):
        raise ValueError(f"lr_schedule 'step' needs increasing milestones in student steps, found {steps}")
    return partial(_stepped, bounds, factor)
