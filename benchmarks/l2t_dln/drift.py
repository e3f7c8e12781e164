"""Where online teachers' moves of the loss go, along the training: with minus the gradient, or all weights one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from teachenv.experiment.tables import Group
from teachenv.plot import series, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "cosine of a move with minus the gradient": 1,
    "size of a move's cosine with all ones": 2,
    "way from φ₀, as a share of φ₀ (rms)": 3,
}
"""What panels show, with the place of its numbers in `benchmarks.l2t_dln.work.History.drift`."""


def figure(title: str, groups: Sequence[Group]) -> Figure | None:
    """Draws them: means over seeds, from the lowest to the highest seed; None: no row has any.

    Args:
        title: what the table of the groups is called.
        groups: the methods.
    """
    pairs = [(group.name, _curves(group)) for group in groups]
    lines = style.split([pair for pair in pairs if pair[1]])
    if not lines[0]:
        return None
    looks = style.distinct([[name for name, _ in panel] for panel in lines])
    drawn, axes = style.panels([f"{title}\n{what}" for _ in lines for what in PANELS])
    places = ((panel, column) for panel in lines for column in PANELS.values())
    for axis, (panel, column) in zip(axes, places, strict=True):
        for name, curves in panel:
            series.curve(axis, curves, column=column, band="range", label=name, **looks[name].line())
        style.describe(axis, "student steps")
    return drawn


def _curves(group: Group) -> list[series.Curve]:
    return [row.data["drift"] for row in group.with_data if row.data.get("drift")]
