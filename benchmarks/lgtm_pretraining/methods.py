"""The methods of a phase, the cells that pair them, and the rates that each is tuned over."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product, starmap
from typing import Any, NamedTuple

from benchmarks.lgtm.methods import ALONE, Method
from benchmarks.lgtm_pretraining.phases import Phase

# Students that have a teacher learn from it and from the labels, half and half, under each method: eq. 1 of Ren et al.
# has 0.6 for the labels, their code 0.
_HALF: Mapping[str, Any] = {"student_labels": 0.5}

NONE, SCRATCH, FOLLOWED, RELEASED, UNTAUGHT = "none", "scratch", "lgtm", "lgtm:released", "prokt"

METHODS: Mapping[str, Method] = {
    NONE: Method(ALONE),
    "kd": Method("kd", tuned=True, settings=_HALF),
    UNTAUGHT: Method("prokt", settings=_HALF),
    FOLLOWED: Method("lgtm", options={"mode": "meta"}, settings=_HALF),
    RELEASED: Method("lgtm", settings=_HALF),
}
"""What may be done in each phase; `none`: the student learns alone."""

FIRST = (SCRATCH, *METHODS)
"""What a student may have gone through before it is fine-tuned; `scratch`: nothing, it is drawn."""

Cell = tuple[str, str]
"""(how the student was pre-trained, how it is fine-tuned)."""

TELLING: tuple[Cell, ...] = (
    (NONE, NONE),
    (SCRATCH, NONE),
    ("kd", NONE),
    (UNTAUGHT, NONE),
    (FOLLOWED, NONE),
    (NONE, "kd"),
    (NONE, UNTAUGHT),
    (NONE, FOLLOWED),
    ("kd", "kd"),
    (UNTAUGHT, UNTAUGHT),
    (FOLLOWED, FOLLOWED),
    (RELEASED, NONE),
    (NONE, RELEASED),
)
"""The cells that answer the question, the most telling first: ProKT's are LGTM's without influence."""

ALL: tuple[Cell, ...] = (*TELLING, *(cell for cell in product(FIRST, METHODS) if cell not in TELLING))


def name_of(cell: Cell) -> str:
    """A cell's name in rows: `"kd x none"`."""
    return f"{cell[0]} x {cell[1]}"


def cell_of(name: str) -> Cell:
    """The cell of a name."""
    first, _, second = name.partition(" x ")
    return first, second


def untaught(cell: Cell) -> Cell | None:
    """The cell that is the same without influence; None: nobody is taught by influence in it."""
    first, second = (UNTAUGHT if method in (FOLLOWED, RELEASED) else method for method in cell)
    return None if (first, second) == cell else (first, second)


class Rates(NamedTuple):
    """What tuning chooses.

    Attributes:
        student_rate: AdamW's learning rate of the student.
        teacher_rate: that of a teacher that learns beside it.
        influence_rate: the factor of the influence term; None: as the method has it.
    """

    student_rate: float
    teacher_rate: float
    influence_rate: float | None = None


def grid(method: str, phase: Phase) -> list[Rates]:
    """The four configurations that a method is tuned over in a phase.

    LGTM at the released factor has none of its own: it is ProKT with an influence term, at what ProKT's tuning chose.

    Args:
        method: a name in `METHODS`.
        phase: says which rates are tried.
    """
    students, middle, rate = phase.student_rates, phase.student_rates[1:3], phase.beside_rate
    if METHODS[method].distiller in (ALONE, "kd"):
        return [Rates(student, rate) for student in students]
    if method == FOLLOWED:
        return list(starmap(Rates, product(middle, (rate,), phase.influence_rates)))
    return list(starmap(Rates, product(middle, (0.3 * rate, rate))))
