import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from teachenv.experiment.statistics import Paired, bootstrap_interval, iqm, mean

finite = st.floats(-1e6, 1e6)
samples = st.lists(finite, min_size=1, max_size=25)


def test_mean_is_the_arithmetic_mean():
    assert mean([1.0, 2.0, 6.0]) == 3.0


@given(st.lists(finite, min_size=4, max_size=40))
def test_iqm_drops_whole_quarters_when_the_number_of_values_is_a_multiple_of_four(values):
    values = values[: len(values) // 4 * 4]
    quarter = len(values) // 4
    middle = sorted(values)[quarter : len(values) - quarter]
    assert iqm(values) == pytest.approx(math.fsum(middle) / len(middle), abs=1e-6)


@given(samples)
def test_iqm_is_the_integral_of_the_quantile_function_over_the_middle_half(values):
    # Each value written four times makes the quartiles fall between values, where trimming is unambiguous.
    repeated = sorted(values * 4)
    middle = repeated[len(values) : 3 * len(values)]
    assert iqm(values) == pytest.approx(math.fsum(middle) / len(middle), abs=1e-6)


def test_iqm_of_three_weighs_the_outer_values_by_the_part_inside_the_quartiles():
    # Thirds of the quantile axis: the outer ones reach from 1/4 to 1/3, that is 1/12 of the half.
    assert iqm([0.0, 0.0, 12.0]) == pytest.approx(12.0 * (1 / 12) / (1 / 2))


def test_iqm_ignores_outliers_that_move_the_mean():
    values = [1.0, 2.0, 3.0, 4.0]
    assert iqm([*values[:3], 1e9]) == iqm(values)
    assert mean([*values[:3], 1e9]) > mean(values)


@pytest.mark.parametrize("statistic", [mean, iqm])
def test_statistics_reduce_the_last_axis_row_by_row(statistic):
    rows = np.random.default_rng(0).normal(size=(3, 4, 7))
    expected = [[statistic(list(row)) for row in block] for block in rows]
    np.testing.assert_allclose(statistic(rows), expected)


@pytest.mark.parametrize("statistic", [mean, iqm])
@given(values=samples)
def test_statistics_do_not_depend_on_the_order_and_stay_in_range(statistic, values):
    assert statistic(values[::-1]) == pytest.approx(statistic(values), abs=1e-6)
    assert min(values) - 1e-6 <= statistic(values) <= max(values) + 1e-6


@pytest.mark.parametrize("function", [mean, iqm, bootstrap_interval])
@pytest.mark.parametrize("values", [[], [0.5, math.nan], [0.5, -math.inf]])
def test_empty_and_non_finite_samples_are_refused(function, values):
    with pytest.raises(ValueError, match=r"expected (at least one value|finite ones)"):
        function(values)


@given(finite)
def test_a_single_value_has_an_interval_without_width(value):
    assert bootstrap_interval([value]) == (value, value)


@given(values=samples)
def test_interval_is_ordered_within_the_range_and_repeatable(values):
    low, high = bootstrap_interval(values, resamples=200)
    assert min(values) - 1e-6 <= low <= high <= max(values) + 1e-6
    assert bootstrap_interval(values, resamples=200) == (low, high)


@given(values=samples, shift=st.floats(-100, 100), scale=st.floats(0.1, 10))
def test_interval_moves_and_stretches_with_the_values(values, shift, scale):
    low, high = bootstrap_interval(values, iqm, resamples=100)
    moved = bootstrap_interval([scale * value + shift for value in values], iqm, resamples=100)
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), rel=1e-6, abs=1e-5)


@given(samples)
def test_a_higher_level_gives_an_interval_around_the_lower_one(values):
    assume(len(set(values)) > 1)
    inner = bootstrap_interval(values, level=0.5, resamples=200)
    outer = bootstrap_interval(values, level=0.99, resamples=200)
    assert outer[0] <= inner[0] <= inner[1] <= outer[1]
    assert outer != inner


def test_interval_of_the_mean_has_the_width_of_the_normal_approximation():
    values = np.random.default_rng(3).normal(size=400)
    low, high = bootstrap_interval(values, level=0.95)
    half_width = 1.96 * values.std() / math.sqrt(values.size)
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_interval_of_two_values_has_the_probabilities_of_two_coin_flips():
    # Means of two draws from {0, 1} are 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4.
    assert bootstrap_interval([0.0, 1.0], level=0.6) == (0.0, 1.0)
    assert bootstrap_interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_a_large_sample_is_resampled_piecewise_with_the_same_meaning():
    values = np.random.default_rng(0).uniform(size=300_000)  # three resamples a piece
    low, high = bootstrap_interval(values, resamples=8)
    assert low < high
    assert low == pytest.approx(values.mean(), abs=0.005)
    assert high == pytest.approx(values.mean(), abs=0.005)


def test_any_reduction_of_the_last_axis_can_be_bootstrapped():
    low, high = bootstrap_interval([1.0, 2.0, 10.0], lambda rows: rows.max(axis=-1), level=0.9)
    assert (low, high) == (2.0, 10.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 95}, "level=95"), ({"level": 0.0}, r"level=0\.0"), ({"resamples": 0}, "resamples=0")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval([1.0, 2.0], **options)


def test_interval_of_several_samples_at_once_is_refused():
    with pytest.raises(ValueError, match="one sample"):
        bootstrap_interval(np.zeros((2, 3)))


def test_a_paired_difference_is_written_as_tables_have_it():
    difference = Paired(3, 0.8, 0.3071, 1.2899, 0.0162)
    assert difference.interval(2) == "+0.80 [+0.31, +1.29]"
    assert difference.interval(1) == "+0.8 [+0.3, +1.3]"
