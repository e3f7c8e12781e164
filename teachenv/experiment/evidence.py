"""Whether the teacher of a row taught: how far it moved what it teaches with, and what that did to students.

A row that is called after a method of teaching says little of the method if its teacher stayed where it began. So
taught rows have two numbers beside their result: a share by which the teacher moved (of the neutral coefficients, or
its term as a part of the loss that it is added to), and the difference to students of the same seeds whom nobody
taught.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from teachenv.experiment.statistics import Paired
from teachenv.experiment.tables import Column, Group, Measure, difference

LEAST_MOVE = 0.01
"""A teacher that moved by a smaller share, without a measurable effect, has not taught."""


class Evidence(NamedTuple):
    """What shows that a teacher taught.

    Attributes:
        moved: by which share it moved, the mean over seeds.
        effect: the difference from untaught students over pairs of one seed; None: of fewer than two pairs.
    """

    moved: float
    effect: Paired | None

    @property
    def untaught(self) -> bool:
        """Whether the row says nothing of its method: the teacher hardly moved, and no effect can be told from none."""
        return self.moved < LEAST_MOVE and (self.effect is None or self.effect.low <= 0.0 <= self.effect.high)


Gives = Callable[[Group], Evidence | None]
"""The evidence of a table's line; None: there is no teacher, or the rows have no evidence."""


def beside(baseline: str, moved: str, measure: Measure) -> Gives:
    """Evidence by comparison with an untaught line of the same table.

    Args:
        baseline: the untaught line's name.
        moved: the metric of the share by which the teacher moved.
        measure: what students are compared by.
    """

    def evidence(group: Group) -> Evidence | None:
        shares = list(group.values(moved).values())
        if not shares:
            return None
        return Evidence(float(np.mean(shares)), difference(group, baseline, measure))

    return evidence


def name_column(evidence: Gives) -> Column:
    """The method's name, with "(untaught)" where the evidence says so."""

    def cell(group: Group) -> str:
        shown = evidence(group)
        return f"{group.name} (untaught)" if shown is not None and shown.untaught else group.name

    return Column("method", cell)


def moved_column(header: str, evidence: Gives) -> Column:
    """The share by which the teacher moved, in percent."""

    def cell(group: Group) -> str:
        shown = evidence(group)
        return "" if shown is None else f"{100 * shown.moved:.3g}"

    return Column(header, cell)
