"""The two data sets that come with the package. Nothing is downloaded.

Both are from the UCI Machine Learning Repository, under the licence CC BY 4.0, in the form that scikit-learn has them:

- digits: E. Alpaydin, C. Kaynak (1998), Optical Recognition of Handwritten Digits, the test half,
  https://doi.org/10.24432/C50P49
- wine: S. Aeberhard, M. Forina (1992), Wine, https://doi.org/10.24432/C5PC7J
"""

from __future__ import annotations

import functools
import importlib.resources

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def load_digits() -> tuple[Floats, Integers]:
    """1,797 handwritten digits of 8x8 pixels.

    Returns:
        Pixels, (1797, 64), row by row, whole numbers from 0 (white) to 16, and labels, (1797,), 0 to 9.
    """
    inputs, labels = _arrays("digits")
    return inputs.astype(np.float64), labels.astype(np.int64)


def load_wine() -> tuple[Floats, Integers]:
    """178 wines of three growers.

    Returns:
        Measurements, (178, 13): alcohol, malic acid, ash, alkalinity of ash, magnesium, total phenols, flavonoids,
        other phenols, proanthocyanins, colour intensity, hue, OD280/OD315 of diluted wine, and proline, each in a unit
        of its own; and growers, (178,), 0 to 2.
    """
    inputs, labels = _arrays("wine")
    return inputs.astype(np.float64), labels.astype(np.int64)


@functools.cache  # comparisons make hundreds of environments
def _arrays(name: str) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Inputs and labels of a file; callers copy them."""
    with (
        importlib.resources.files("teachenv.data").joinpath(f"{name}.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return arrays["inputs"], arrays["labels"]
