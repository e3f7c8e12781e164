import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teachenv.schedules import make_schedule

STEP = {"name": "step", "milestones": [3, 7], "gamma": 0.5}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("constant", [1.0] * 10),
        ("linear", [1 - t / 10 for t in range(10)]),
        ("cosine", [0.5 * (1 + math.cos(math.pi * t / 10)) for t in range(10)]),
        ("step", [1.0] * 5 + [0.1] * 3 + [0.01] * 2),  # milestones 5 and 7.5
        (STEP, [1.0] * 3 + [0.5] * 4 + [0.25] * 3),
        ({"name": "linear"}, [1 - t / 10 for t in range(10)]),
    ],
)
def test_schedules_are_their_formulas_for_one_step_and_for_many(spec, expected):
    schedule = make_schedule(spec, 10)
    assert [float(schedule(t)) for t in range(10)] == pytest.approx(expected, abs=1e-15)
    assert np.asarray(schedule(np.arange(10))) == pytest.approx(np.array(expected), abs=1e-15)


@pytest.mark.parametrize("horizon", [1, 3, 4, 10, 57])
def test_one_cycle_is_pytorchs(horizon):
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = make_schedule("one-cycle", horizon)
    factors = np.asarray(schedule(np.arange(horizon)))
    assert [float(schedule(t)) for t in range(horizon)] == factors.tolist()
    if horizon < 4:  # nothing before the peak, where PyTorch divides by zero
        assert factors[0] == 1.0
        return
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=horizon, cycle_momentum=False)
    rates = []
    for _ in range(horizon):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < horizon:
            theirs.step()
    assert factors == pytest.approx(np.array(rates), rel=1e-9)


@given(spec=st.sampled_from(["constant", "linear", "cosine", "step"]), horizon=st.integers(1, 10_000))
def test_factors_start_at_one_never_rise_and_stay_positive(spec, horizon):
    factors = np.asarray(make_schedule(spec, horizon)(np.arange(min(horizon, 500))), dtype=float)
    assert factors[0] == 1.0 or (spec == "step" and horizon == 1)
    assert (np.diff(factors) <= 0).all()
    assert (factors > 0).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cosin", "did you mean 'cosine'"),
        ({"name": "stp"}, "did you mean 'step'"),
        ({}, "unknown lr_schedule None"),
        (0.1, r"unknown lr_schedule 0\.1"),
        ({"name": "linear", "gamma": 0.5}, "'linear' takes no options, found 'gamma'"),
        ({**STEP, "gama": 1}, "did you mean 'gamma'"),
        ({"name": "step", "milestones": [7, 3]}, "increasing milestones"),
        ({"name": "step", "milestones": [3, float("nan")]}, r"milestones\[1\] must be a finite number"),
        ({"name": "step", "milestones": [-3]}, "of at least 0, found -3"),
        ({"name": "step", "milestones": "37"}, "milestones must be a list"),
        ({"name": "step", "milestones": 3}, "milestones must be a list"),
        ({"name": "step", "gamma": float("nan")}, "gamma must be a finite number of at least 0, found nan"),
        ({"name": "step", "gamma": float("inf")}, "found inf"),
        ({"name": "step", "gamma": -0.1}, "found -0.1"),
        ({"name": "step", "gamma": "0.1"}, "found '0.1'"),
        ({"name": "step", "gamma": True}, "found True"),
    ],
)
def test_bad_schedules_are_errors(spec, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make_schedule(spec, 10)


def test_a_spec_is_not_consumed():
    spec = dict(STEP)
    make_schedule(spec, 10)
    assert spec == STEP
