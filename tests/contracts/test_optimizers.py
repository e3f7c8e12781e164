"""What every optimiser of the registry does; descents through each are differentiated in `test_memory_policies.py`."""

from itertools import product

import numpy as np
import pytest
import torch

from meta import ActionGradient
from teachenv import TeachEnv
from teachenv.optimizers import OPTIMIZERS, Places, make_optimizer

SHAPES = {"weight": (3, 4), "bias": (3,)}
# Beside the defaults and weight decay, which every optimiser is tried with.
MORE = {
    "sgd": [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.02}],
    "adam": [{"options": {"betas": (0.8, 0.95), "epsilon": 1e-6}}],
    "rmsprop": [{"options": {"alpha": 0.9, "epsilon": 1e-6}}, {"weight_decay": 0.02, "options": {"momentum": 0.8}}],
}
CASES = [(name, case) for name in OPTIMIZERS for case in ({}, {"weight_decay": 0.02}, *MORE.get(name, ()))]
by_case = pytest.mark.parametrize(("name", "case"), CASES, ids=str)
PEERS = {kind.lower(): getattr(torch.optim, kind) for kind in torch.optim.__all__ if kind.lower() in OPTIMIZERS}


def tensors(seed, dtype=torch.float64, batch=()):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*batch, *shape, generator=rng, dtype=dtype) for name, shape in SHAPES.items()}


def slots_after_two_steps(optimizer, parameters, batch=()):
    slots = optimizer.init(parameters)
    for step in range(2):
        slots = optimizer.update(parameters, tensors(50 + step, batch=batch), slots, 0.1, step)[1]
    return slots


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, case in CASES if name in PEERS], ids=str)
def test_steps_are_those_of_pytorch_bitwise(name, case):
    ours, parameters = make_optimizer(name, **case), tensors(0, torch.float32)
    slots = ours.init(parameters)
    theirs = {key: torch.nn.Parameter(p.clone()) for key, p in parameters.items()}
    settings = {"weight_decay": 0.0} | case
    options = {{"epsilon": "eps"}.get(key, key): value for key, value in settings.pop("options", {}).items()}
    optimizer = PEERS[name](theirs.values(), lr=1.0, **settings, **options, foreach=False)
    for step, rate in enumerate([0.1, 0.1, 0.03, 0.7, 0.0, 0.01]):
        gradient = tensors(100 + step, torch.float32)
        parameters, slots = ours.update(parameters, gradient, slots, rate, step)
        optimizer.param_groups[0]["lr"] = rate
        for key, p in theirs.items():
            p.grad = gradient[key].clone()
        optimizer.step()
        assert all(torch.equal(parameters[key], p) for key, p in theirs.items()), step


@by_case
def test_reverse_is_the_vector_jacobian_product_of_update(name, case):
    optimizer = make_optimizer(name, **case)
    rates, steps = (0.1, torch.tensor([0.1, 0.4], dtype=torch.float64)), (2, np.array([2, 9]))
    for seed, (rate, step) in enumerate(product(rates, steps)):
        parameters, gradient, d_parameters = (tensors(10 * seed + i, batch=(2,)) for i in range(3))
        slots = slots_after_two_steps(optimizer, parameters, (2,))
        d_slots = {key: torch.randn(slot.shape, dtype=slot.dtype) for key, slot in slots.items()}
        inputs = [t.requires_grad_() for group in (gradient, parameters, slots) for t in group.values()]
        new_parameters, new_slots = optimizer.update(parameters, gradient, slots, rate, step)
        expected = torch.autograd.grad(
            [*new_parameters.values(), *new_slots.values()], inputs, [*d_parameters.values(), *d_slots.values()]
        )
        state = (parameters, gradient, slots) if optimizer.needs_gradient else ()
        with torch.no_grad():
            cotangents = optimizer.reverse(d_parameters, d_slots, rate, step, *state)
        for e, c in zip(expected, (t for group in cotangents for t in group.values()), strict=True):
            torch.testing.assert_close(c, e, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "case"), [(name, case) for name, case in CASES if make_optimizer(name, **case).scales(0.1)], ids=str
)
def test_the_scaled_reverse_rule_is_the_reverse_rule_but_for_the_factors_that_it_says(name, case):
    optimizer, (d_parameters, d_slots) = make_optimizer(name, **case), (tensors(i) for i in range(2))
    d_slots = {key: d_slots[key.rpartition(":")[2]] for key in optimizer.init(d_parameters)}
    assert not optimizer.scales(torch.tensor([0.1, 0.4]))  # each student's direction would have a factor of its own
    carried = {key: d / 0.5 for key, d in d_slots.items()}
    direction, scale, d_old, slots, factor = optimizer.reverse_scaled(d_parameters, carried, 0.1, 0.5)
    found = {key: scale * d for key, d in direction.items()}, d_old, {key: factor * d for key, d in slots.items()}
    for mine, exact in zip(found, optimizer.reverse(d_parameters, d_slots, 0.1), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-14)


@by_case
def test_new_parameters_are_written_to_given_places_slots_may_be_and_nothing_else_changes(name, case):
    optimizer = make_optimizer(name, **case)
    for rate in (0.1, torch.tensor([0.1, 0.3])):
        parameters, gradient, cotangents = (tensors(i, torch.float32, (2,)) for i in range(3))
        slots = optimizer.init(parameters)
        copies = [{key: t.clone() for key, t in group.items()} for group in (parameters, gradient, slots, cotangents)]
        expected, expected_slots = optimizer.update(parameters, gradient, slots, rate, np.array([3, 3]))
        for chosen in ({}, slots, dict(list(slots.items())[:1])):
            places, of_slots = (
                {key: torch.full_like(t, 9.0) for key, t in group.items()} for group in (parameters, chosen)
            )
            new, new_slots = optimizer.update(
                parameters, gradient, slots, rate, np.array([3, 3]), Places(places, of_slots)
            )
            assert all(new[key] is place and torch.equal(place, expected[key]) for key, place in places.items())
            assert all(torch.equal(slot, expected_slots[key]) for key, slot in new_slots.items())
            if name == "sgd":
                assert all(new_slots[key] is place for key, place in of_slots.items())
        optimizer.reverse(cotangents, slots, rate, np.array([3, 3]), parameters, gradient, slots)
        for group, copy in zip((parameters, gradient, slots, cotangents), copies, strict=True):
            assert all(torch.equal(t, copy[key]) for key, t in group.items())


@by_case
def test_a_batch_takes_a_learning_rate_and_a_step_for_each_student(name, case):
    optimizer, rates, steps = make_optimizer(name, **case), torch.tensor([0.1, 0.5, 0.0]).double(), np.array([0, 7, 2])
    parameters, gradient = (tensors(i, batch=(3,)) for i in range(2))
    slots = slots_after_two_steps(optimizer, parameters, (3,))
    together = optimizer.update(parameters, gradient, slots, rates, steps)
    for i in range(3):
        arguments = ({key: t[i] for key, t in group.items()} for group in (parameters, gradient, slots))
        alone = optimizer.update(*arguments, float(rates[i]), int(steps[i]))
        for batch, single in zip(together, alone, strict=True):
            torch.testing.assert_close({key: t[i] for key, t in batch.items()}, single)


@by_case
def test_the_reverse_rule_is_finite_where_every_gradient_was_zero(name, case):
    optimizer, parameters = make_optimizer(name, **case | {"weight_decay": 0.0}), tensors(0)
    gradient = {key: torch.zeros_like(p) for key, p in parameters.items()}
    slots = optimizer.init(parameters)
    for group in optimizer.reverse(tensors(1), slots, 0.1, 0, parameters, gradient, slots):
        assert all(torch.isfinite(t).all() for t in group.values())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_options_that_an_optimizer_does_not_have_are_refused(name):
    with pytest.raises(TypeError, match=f"optimizer '{name}'.*'no_such_option'"):
        make_optimizer(name, {"no_such_option": 1})
    for setting, value in {"momentum": 0.5, "nesterov": True}.items():
        if setting not in OPTIMIZERS[name].settings:
            with pytest.raises(ValueError, match=f"{setting}=.* has no effect with optimizer='{name}'"):
                TeachEnv(optimizer=name, **{setting: value})


@by_case
def test_the_hypergradient_of_an_environment_is_the_slope_of_its_return(name, case):
    settings = dict(case)
    options = settings.pop("options", {})
    if "epsilon" in OPTIMIZERS[name].options:
        options = options | {"epsilon": 1e-3}  # a small one bends the return so much that its slope is hard to see
    settings = {"momentum": 0.0} | settings if "momentum" in OPTIMIZERS[name].settings else settings
    env = TeachEnv(
        horizon=3, batch_size=8, dev_size=50, loss="bilinear", learning_rate=0.02, dtype="float64",
        student_kwargs={"hidden": [4]}, optimizer=name, optimizer_kwargs=options, **settings,
    )  # fmt: skip
    actions, direction = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 3, *env.action_space.shape))

    def episode(env, actions):
        env.reset(seed=0)
        steps = [env.step(action) for action in actions]
        return sum(step[1] for step in steps), steps[-1][4]

    gradient = episode(ActionGradient(env), actions)[1]["action_gradient"]
    direction = gradient / np.linalg.norm(gradient) + 0.1 * direction / np.linalg.norm(direction)
    ahead, behind = (episode(env, actions + sign * 1e-5 * direction)[0] for sign in (1, -1))
    assert (ahead - behind) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5)
