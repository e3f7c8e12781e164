"""How small may a student be? Learning from teaching with students of shares of the model's parameters.

The model is trained alone, with ordinary regularisers, for as many steps as model and student together take, and with a
student of each size; each of these lines is tuned, in equally many training runs. For each size there is also a student
of a model that is trained alone (α = 0). Its distance from that model at the end says how easy an ordinary model is to
imitate; the distance of LoT's student from its model says how much easier the model has become.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from benchmarks.lot.methods import LOT, Method
from benchmarks.lot.regularisers import Regulariser

SHARES = ("1", "1/4", "1/16", "1/64")
"""The sizes of students."""

ORDINARY = ("teacher-only:total-steps", "weight-decay", "dropout", "label-smoothing", "weight-average")
"""What students are compared with, apart from the model alone."""

# One of each is tried with each rate (the third), the other three with the best rate.
_ALPHAS = (1.0, 4.0, 16.0, 64.0)
_DECAYS = (1e-4, 3e-4, 1e-3, 3e-3)
_DROPOUTS = (0.2, 0.35, 0.5, 0.7)
_SMOOTHED = (0.05, 0.1, 0.2, 0.4)
_AVERAGES = (0.9, 0.97, 0.99, 0.997)
# What the best rate of a model without a regulariser is multiplied by.
_FACTORS = (0.3, 0.6, 1.7)

_LARGEST = 64


def shares(texts: Sequence[str]) -> list[Fraction]:
    """Reads students' shares of the model's parameters, each once.

    Raises:
        ValueError: one that is no number above 0, or above 64.
    """
    parsed: list[Fraction] = []
    for text in texts:
        try:
            share = Fraction(text)
        except (ValueError, ZeroDivisionError):
            share = Fraction(0)
        if not 0 < share <= _LARGEST:
            raise ValueError(
                f"found --student-size {text}, expected a share of the model's parameters such as 1/16, at most "
                f"{_LARGEST}"
            )
        parsed.append(share)
    return list(dict.fromkeys(parsed))


def sized(students: Sequence[Fraction], alphas: Sequence[float] | None) -> dict[str, Regulariser]:
    """What is compared, by name.

    Args:
        students: their shares of the model's parameters.
        alphas: the weights of LoT's term that are tried; None: four from 1 to 64.
    """
    tried = tuple(alphas or _ALPHAS)
    watched = replace(LOT, alpha=0.0)
    return {
        "teacher-only": Regulariser(strengths=_FACTORS),
        "teacher-only:total-steps": Regulariser(Method(longer=2.0), strengths=_FACTORS),
        "weight-decay": Regulariser(Method(), "decay", _DECAYS),
        "dropout": Regulariser(Method(), "dropout", _DROPOUTS),
        "label-smoothing": Regulariser(Method(), "label_smoothing", _SMOOTHED),
        "weight-average": Regulariser(Method(), "average", _AVERAGES),
        **{lot_of(share): Regulariser(LOT, "alpha", tried, float(share)) for share in students},
        **{
            watched_by(share): Regulariser(watched, None, _FACTORS, float(share), tuned_as="teacher-only")
            for share in students
        },
    }


def lot_of(share: Fraction) -> str:
    """The name of a line with a student of this share."""
    return f"lot:size-{share}"


def watched_by(share: Fraction) -> str:
    """The name of the line of a model that is trained alone, and watched by a student of this share."""
    return f"watched:size-{share}"
