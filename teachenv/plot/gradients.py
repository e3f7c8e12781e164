"""A figure of how far a gradient predicts what it is the gradient of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from teachenv.plot.arrays import numbers
from teachenv.plot.style import GREY, PALETTE, describe, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def smoothness(radii: Any, changes: Mapping[str, tuple[Any, Any]], steps: Any, norms: Any, *, usable: float) -> Figure:
    """Draws predicted and real changes of J over the size of a step, and gradients over a training run.

    Args:
        radii: (R,) sizes of steps.
        changes: (predicted, real) changes of J, (R,) each, by direction.
        steps: (T,) the student step at which each action is taken.
        norms: (T,) the size of dJ/da_t.
        usable: the size of step up to which the gradient is usable; 0: none is.

    Raises:
        ValueError: arrays of other shapes.
    """
    x = numbers("radii", radii, ("radii",))
    t = numbers("steps", steps, ("actions",))
    figure, (left, right) = panels(["change of J, dashed as predicted", "gradient of each action"])
    for (name, (predicted, real)), color in zip(changes.items(), PALETTE[1:], strict=False):
        for values, style in (
            (predicted, {"linestyle": "--"}),
            (real, {"marker": "o", "markersize": 4, "label": name}),
        ):
            y = abs(numbers(name, values, x.shape))
            left.plot(x, y, color=color, **style)
    if usable:
        left.axvspan(x.min(), usable, color=GREY, alpha=0.15, label="usable")
    left.set_xscale("log")
    left.set_yscale("log")
    right.plot(t, numbers("norms", norms, t.shape), color=PALETTE[1], marker="o", markersize=4)
    right.set_yscale("log")
    describe(left, "size of the step in each coordinate of an action", "absolute change of J")
    describe(right, "student step", "root mean square of dJ/da")
    return figure
