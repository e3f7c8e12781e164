"""Statistics over seeds: point estimates that few runs support, with bootstrap intervals.

The interquartile mean and percentile bootstrap follow Agarwal et al., *Deep Reinforcement Learning at the Edge of the
Statistical Precipice* (2021). One deviation: their interquartile mean drops `floor(n / 4)` values at either end, so
for three runs it is the plain mean and it jumps between n = 7 and n = 8. Here the values at the quartiles count with
the part of them that lies inside, which is the same number whenever n is a multiple of four and smooth in between.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Statistic: TypeAlias = Callable[[Array], Array]
"""Maps an array of shape (..., n) to the statistic of each row, shape (...)."""

# Resamples drawn at once hold at most this many values, so that memory stays small for any number of values.
_CHUNK = 1 << 20


@overload
def mean(values: Sequence[float]) -> float: ...
@overload
def mean(values: Array) -> Array: ...
def mean(values: Sequence[float] | Array) -> float | Array:
    """The mean over the last axis.

    Args:
        values: one sample, or an array of shape (..., n) with a sample per row.

    Returns:
        A float for one sample, else an array of shape (...).

    Raises:
        ValueError: there are no values, or any is not finite.
    """
    result: Array = _checked(values).mean(axis=-1)
    return result if result.ndim else float(result)


@overload
def iqm(values: Sequence[float]) -> float: ...
@overload
def iqm(values: Array) -> Array: ...
def iqm(values: Sequence[float] | Array) -> float | Array:
    """The interquartile mean over the last axis: the mean of the middle half of the sorted values.

    Value i of n (from 0, sorted) stands for the quantiles from i / n to (i + 1) / n and weighs as much as that stretch
    shares with [1/4, 3/4]. For n divisible by four this is the mean without the n/4 smallest and n/4 largest values.

    Args:
        values: one sample, or an array of shape (..., n) with a sample per row.

    Returns:
        A float for one sample, else an array of shape (...).

    Raises:
        ValueError: there are no values, or any is not finite.
    """
    ordered = np.sort(_checked(values), axis=-1)
    n = ordered.shape[-1]
    # In units of 1/n, so that the weights of whole values are exactly one.
    edges = np.clip(np.arange(n + 1, dtype=np.float64), n / 4, 3 * n / 4)
    result: Array = (ordered * np.diff(edges)).sum(axis=-1) / (n / 2)
    return result if result.ndim else float(result)


COVERAGE = {2: 51, 3: 71, 4: 80, 5: 84, 6: 86, 7: 87, 8: 88, 9: 89}
"""How often, in percent, a bootstrap interval of so few normal numbers covers their mean, where 95 are meant."""


def bootstrap_interval(
    values: Sequence[float] | Array,
    statistic: Statistic = mean,
    level: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """The percentile bootstrap interval of a statistic: draw n of n with replacement, many times, and take quantiles.

    With few values it is too narrow (`COVERAGE`), and a single value has no spread to draw from: it gives an interval
    of width zero. So show n beside it.

    Args:
        values: one sample, n values.
        statistic: maps an array of shape (k, n) to k numbers: `mean`, `iqm`, or a function that reduces the last axis.
        level: share of the resampled statistics inside the interval, in (0, 1).
        resamples: how many samples to draw; equal arguments give equal intervals.

    Returns:
        Lower and upper end.

    Raises:
        ValueError: the values are not one finite sample, or `level` or `resamples` is out of range.
    """
    sample = _checked(values)
    if sample.ndim != 1:
        raise ValueError(f"found values of shape {sample.shape}, expected one sample; call this for each row")
    if not 0.0 < level < 1.0:
        raise ValueError(f"found level={level}, expected a share between 0 and 1, such as 0.95")
    if resamples < 1:
        raise ValueError(f"found resamples={resamples}, expected at least 1")
    if sample.size == 1:
        return float(sample[0]), float(sample[0])
    generator = np.random.default_rng(0)
    statistics = np.empty(resamples)
    rows = max(1, _CHUNK // sample.size)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = sample[generator.integers(sample.size, size=(count, sample.size))]
        statistics[start : start + count] = statistic(drawn)
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Paired:
    """How much one sample lies above another whose values belong to it one by one.

    Attributes:
        n: number of pairs.
        mean: mean difference.
        low: lower end of its 95 % interval by Student's t.
        high: upper end of that interval.
        p: two-sided p-value of the paired t-test; 1 if all pairs are equal.
    """

    n: int
    mean: float
    low: float
    high: float
    p: float

    def interval(self, digits: int) -> str:
        """The mean difference and its interval, as tables have them: `+0.80 [+0.31, +1.29]`."""
        return f"{self.mean:+.{digits}f} [{self.low:+.{digits}f}, {self.high:+.{digits}f}]"


def paired(values: Sequence[float] | Array, others: Sequence[float] | Array) -> Paired:
    """Compares two samples by the paired t-test.

    Args:
        values: one sample, n >= 2 values.
        others: the sample that it is compared with, a value for each.

    Raises:
        ValueError: the samples are not finite, of different lengths, or of less than two values.
    """
    sample, other = _checked(values), _checked(others)
    if sample.shape != other.shape or sample.ndim != 1 or sample.size < 2:
        raise ValueError(f"found samples of shapes {sample.shape} and {other.shape}, expected pairs, at least two")
    differences = sample - other
    average = float(differences.mean())
    if np.ptp(differences) == 0:
        # Without any spread t is infinite, or 0/0.
        return Paired(sample.size, average, average, average, 1.0 if average == 0 else 0.0)
    import scipy.stats  # takes longer than all that is done with it; jobs need none of it

    test = scipy.stats.ttest_rel(sample, other)
    interval = test.confidence_interval(0.95)
    return Paired(sample.size, average, float(interval.low), float(interval.high), float(test.pvalue))


def _checked(values: Sequence[float] | Array) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"found values of shape {array.shape}, expected at least one value")
    if not np.isfinite(array).all():
        raise ValueError(f"found {int((~np.isfinite(array)).sum())} NaN or infinite values, expected finite ones")
    return array
