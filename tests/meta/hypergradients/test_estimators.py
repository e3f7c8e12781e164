"""Estimates of a shared action's gradient, against the exact one on small processes."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import meta
from meta.hypergradients.estimators import (
    evolution_strategies,
    implicit,
    noise_reuse_evolution_strategies,
    persistent_evolution_strategies,
    reinforce,
)
from teachenv import TeachEnv
from teachenv.optimizers import SGD

T, N = 6, 3
ACTION = torch.tensor([0.3, -0.5, 0.8]).double()
MIXING = torch.tensor([[1.0, 0.5, -0.2], [0.3, -1.0, 0.7]]).double()


class Drift(meta.Process):
    """x' = 0.8 x + M a, several at once, whose J is quadratic in a: its gradient is also that of its smoothing."""

    def __init__(self, stacked):
        self.stacked = stacked
        super().__init__(lambda x, action, t: 0.8 * x + action @ MIXING.T, lambda x: (0.1 * x.square() - x).sum(-1))

    def batch(self, state):
        return state.shape[:1] if self.stacked else ()


def exact():
    process, start = Drift(stacked=False), torch.ones(2).double()
    return meta.hypergradient(process, start, [ACTION], steps_per_action=T).actions[0]


ESTIMATORS = {
    "evolution strategies": partial(evolution_strategies, pairs=8000),
    "pes": partial(persistent_evolution_strategies, pairs=8000, window=2),
    "nres": partial(noise_reuse_evolution_strategies, pairs=8000, window=4),
    "reinforce": partial(reinforce, rollouts=16000, window=2),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimates_are_unbiased(name):
    generator = torch.Generator().manual_seed(0)
    start = torch.ones(16000, 2).double()
    found = ESTIMATORS[name](Drift(stacked=True), start, ACTION, T, sigma=0.5, generator=generator)
    error = found.samples.std(0) / len(found.samples) ** 0.5
    assert (error < 0.1 * exact().norm()).all()  # else the next line says nothing
    assert ((found.mean - exact()).abs() < 4 * error).all()


def test_with_one_window_they_are_evolution_strategies():
    def estimated(estimator, **options):
        generator = torch.Generator().manual_seed(3)
        start = torch.ones(10, 2).double()
        return estimator(Drift(stacked=True), start, ACTION, T, pairs=5, generator=generator, **options)

    wanted = estimated(evolution_strategies)
    for estimator in (persistent_evolution_strategies, noise_reuse_evolution_strategies):
        found = estimated(estimator, window=T)
        assert torch.equal(found.samples, wanted.samples)
        assert found.student_steps == wanted.student_steps == 10 * T
        assert not torch.equal(estimated(estimator, window=2).samples, wanted.samples)
    assert estimated(noise_reuse_evolution_strategies, window=2).student_steps == 10 * 2


@pytest.mark.parametrize("window", [1, 2, 4, T])
def test_windows_of_reused_noise_add_up_to_evolution_strategies(window, monkeypatch):
    """Whichever window is drawn: the mean over all of them is the estimate from whole trainings."""
    start, windows, drawn = torch.ones(4, 2).double(), -(-T // window), []
    for chosen in range(windows):
        monkeypatch.setattr(torch, "randint", lambda *_, chosen=chosen, **__: torch.full((1, 2), chosen))
        generator = torch.Generator().manual_seed(3)
        drawn.append(
            noise_reuse_evolution_strategies(
                Drift(stacked=True), start, ACTION, T, pairs=2, window=window, generator=generator
            ).samples
        )
    generator = torch.Generator().manual_seed(3)
    wanted = evolution_strategies(Drift(stacked=True), start, ACTION, T, pairs=2, generator=generator).samples
    torch.testing.assert_close(torch.stack(drawn).mean(0), wanted)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_trainings_one_after_the_other_are_those_of_a_batch(name):
    estimator, found = ESTIMATORS[name].func, []
    for stacked in (True, False):
        start = torch.ones(4, 2).double() if stacked else torch.ones(2).double()
        options = {**ESTIMATORS[name].keywords, "rollouts": 4, "pairs": 2}
        del options["pairs" if name == "reinforce" else "rollouts"]
        generator = torch.Generator().manual_seed(5)
        found.append(estimator(Drift(stacked), start, ACTION, T, generator=generator, **options).samples)
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("solver", ["neumann", "conjugate-gradients"])
def test_implicit_differentiation_is_exact_where_training_has_converged(solver):
    curvature = torch.tensor([0.5, 1.0, 2.0]).double()

    def loss(parameters, action, t):
        moved = parameters["w"] - action.sin()
        return (0.5 * curvature * moved.square()).sum() + 0.1 * (parameters["w"] ** 4).sum()

    process = meta.Descent(loss, lambda p: p["w"].prod() + p["w"][0], SGD(), learning_rate=0.3)
    begin = process.begin({"w": torch.ones(N).double()})
    wanted = meta.hypergradient(process, begin, [ACTION], steps_per_action=200).actions[0]
    state = begin
    for t in range(200):
        state = process.step(state, ACTION, t)
    found = implicit(process, state, ACTION, terms=200 if solver == "neumann" else N + 1, solver=solver)
    torch.testing.assert_close(found.mean, wanted, rtol=1e-8, atol=1e-12)
    short = implicit(process, state, ACTION, terms=2, solver=solver)
    assert (short.mean - wanted).norm() > 1e-3 * wanted.norm()
    assert short.student_steps == 2
    # One term is the last step alone.
    last = meta.hypergradient(process, state, [ACTION], steps_per_action=1).actions[0]
    torch.testing.assert_close(implicit(process, state, ACTION, terms=1, solver=solver).mean, last)


def test_implicit_differentiation_of_an_environment_takes_the_last_state_as_it_is():
    env = TeachEnv(horizon=2, batch_size=8, dev_size=20, dtype="float64")
    env.reset(seed=0)
    process, action = meta.Training(env.dynamics, env.episode), torch.zeros(100, dtype=torch.float64)
    state = process.step(process.step(env.student, action, 0), action, 1)
    found = implicit(process, state, action, terms=1).mean
    first = replace(state, step=0)
    torch.testing.assert_close(found, process.pullback(first, action, 0, process.value(first)[1])[1])
    assert found.any()


def test_conjugate_gradients_end_where_the_curvature_is_not_positive():
    process = meta.Descent(lambda p, action, t: -(p["w"] - action).square().sum(), lambda p: p["w"].sum(), SGD())
    state = process.begin({"w": torch.ones(N).double()})
    found = implicit(process, state, ACTION, terms=50, solver="conjugate-gradients")
    assert found.student_steps == 2
    assert torch.isfinite(found.mean).all()


def test_what_cannot_be_estimated_is_said():
    start = torch.ones(3, 2).double()
    with pytest.raises(ValueError, match="found a batch of 3 students, expected 4, one for each training"):
        evolution_strategies(Drift(stacked=True), start, ACTION, T, pairs=2)
    for action in (ACTION[0], ACTION[None]):
        with pytest.raises(ValueError, match=r"found an action of shape \(.*\), expected \(n,\)"):
            evolution_strategies(Drift(stacked=False), start[0], action, T, pairs=2)
    with pytest.raises(ValueError, match="sigma"):
        evolution_strategies(Drift(stacked=False), start[0], ACTION, T, pairs=2, sigma=0.0)
    with pytest.raises(ValueError, match="neumann"):
        implicit(Drift(stacked=False), start[0], ACTION, terms=3, solver="newton")
