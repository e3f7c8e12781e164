"""Learning-rate schedules: pure functions of the student step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from teachenv.errors import unknown_name

Schedule = Callable[[np.ndarray | int], np.ndarray | float]
"""Maps student step(s) t = 0 … horizon − 1 to the factor(s) by which the base learning rate is multiplied."""

SCHEDULES = ("constant", "linear", "cosine", "step")


def make_schedule(spec: str | Mapping[str, Any], horizon: int) -> Schedule:
    """Builds a schedule.

    Args:
        spec: `"constant"` (1), `"linear"` (1 − t/horizon), `"cosine"` (½(1 + cos πt/horizon)), `"step"` (divided by 10
            after one half and after three quarters of the horizon), or a mapping
            `{"kind": "step", "milestones": [30, 45], "gamma": 0.1}` with milestones in student steps.
        horizon: student steps in an episode.

    Raises:
        ValueError: an unknown kind, unknown keys, or milestones that do not increase.
    """
    options: dict[str, Any] = dict(spec) if isinstance(spec, Mapping) else {"kind": spec}
    kind = options.pop("kind", None)
    if kind not in SCHEDULES:
        raise unknown_name("lr_schedule", kind, SCHEDULES)
    if kind == "step":
        return _step(
            options.pop("milestones", (horizon / 2, horizon * 3 / 4)), float(options.pop("gamma", 0.1)), options
        )
    if options:
        raise ValueError(f"lr_schedule {kind!r} takes no options, found {sorted(options)}")
    if kind == "linear":
        return lambda t: 1.0 - t / horizon
    if kind == "cosine":
        return lambda t: 0.5 * (1.0 + np.cos(np.pi * t / horizon))
    return lambda t: t * 0.0 + 1.0


def _step(milestones: Sequence[float], gamma: float, unknown: Mapping[str, Any]) -> Schedule:
    if unknown:
        raise ValueError(f"lr_schedule 'step' takes 'milestones' and 'gamma', found also {sorted(unknown)}")
    bounds = np.asarray(milestones, dtype=float)
    if bounds.ndim != 1 or bool(np.any(np.diff(bounds) <= 0)):
        raise ValueError(f"lr_schedule 'step' needs increasing milestones in student steps, found {list(milestones)}")
    return lambda t: gamma ** np.searchsorted(bounds, t, side="right")
