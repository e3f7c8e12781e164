import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teachenv.optimizers import SGD, Adam, make_optimizer

SHAPES = {"weight": (3, 4), "bias": (3,)}
MOMENTA = [(0.0, False), (0.9, False), (0.9, True)]


def tensors(seed: int, dtype=torch.float32, batch=()):
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(*batch, *shape, generator=rng, dtype=dtype) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
@pytest.mark.parametrize(("momentum", "nesterov"), MOMENTA)
def test_steps_are_torch_sgds_bitwise(momentum, nesterov, weight_decay):
    ours = SGD(momentum, weight_decay, nesterov)
    parameters = tensors(0)
    slots = ours.init(parameters)
    theirs = {name: torch.nn.Parameter(p.clone()) for name, p in parameters.items()}
    optimizer = torch.optim.SGD(
        theirs.values(), lr=1.0, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov
    )
    for step, rate in enumerate([0.1, 0.1, 0.03, 0.7, 0.0, 0.01]):
        gradient = tensors(100 + step)
        parameters, slots = ours.update(parameters, gradient, slots, rate)
        optimizer.param_groups[0]["lr"] = rate
        for name, p in theirs.items():
            p.grad = gradient[name].clone()
        optimizer.step()
        for name, p in theirs.items():
            assert torch.equal(parameters[name], p), (step, name)
            if momentum:
                assert torch.equal(slots[name], optimizer.state[p]["momentum_buffer"])


@given(
    momentum=st.floats(0, 1),
    nesterov=st.booleans(),
    weight_decay=st.floats(0, 1),
    rate=st.one_of(st.floats(0, 2), st.lists(st.floats(0, 2), min_size=2, max_size=2)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_reverse_is_the_vector_jacobian_product_of_update(momentum, nesterov, weight_decay, rate, seed):
    optimizer = SGD(momentum, weight_decay, nesterov and momentum > 0)
    rate = torch.tensor(rate, dtype=torch.float64) if isinstance(rate, list) else rate
    parameters, gradient, slots, d_parameters, d_slots = (tensors(seed + i, torch.float64, (2,)) for i in range(5))
    if not momentum:
        slots, d_slots = {}, {}
    inputs = [t.requires_grad_() for group in (gradient, parameters, slots) for t in group.values()]
    new_parameters, new_slots = optimizer.update(parameters, gradient, slots, rate)
    expected = torch.autograd.grad(
        [*new_parameters.values(), *new_slots.values()], inputs, [*d_parameters.values(), *d_slots.values()]
    )
    found = optimizer.reverse(d_parameters, d_slots, rate)
    for e, f in zip(expected, (t for group in found for t in group.values()), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-12, atol=1e-12)


@given(
    momentum=st.floats(0, 1),
    weight_decay=st.floats(0, 1),
    rates=st.tuples(st.floats(1e-3, 2), st.floats(1e-3, 2)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_two_scaled_steps_back_are_two_steps_back(momentum, weight_decay, rates, seed):
    optimizer = SGD(momentum, weight_decay)
    d_parameters, d_slots, *through = (tensors(seed + i, torch.float64) for i in range(4))
    found = (d_parameters, d_slots if momentum else {}, 1.0)
    expected = (d_parameters, d_slots if momentum else {})
    for rate, added in zip(rates, through, strict=True):
        assert optimizer.scales(rate)
        direction, scale, d_old, carried, factor = optimizer.reverse_scaled(found[0], found[1], rate, found[2])
        d_gradient, d_expected, d_old_slots = optimizer.reverse(*expected, rate)
        for name, d in d_gradient.items():
            torch.testing.assert_close(scale * direction[name], d, rtol=1e-10, atol=1e-12)
        # What comes through the gradient is added to both.
        found = ({n: d + added[n] for n, d in d_old.items()}, carried, factor)
        expected = ({n: d + added[n] for n, d in d_expected.items()}, d_old_slots)
    for name, d in expected[0].items():
        torch.testing.assert_close(found[0][name], d, rtol=1e-10, atol=1e-12)
    for name, d in expected[1].items():
        torch.testing.assert_close(found[2] * found[1][name], d, rtol=1e-10, atol=1e-12)


def test_nesterov_needs_momentum():
    with pytest.raises(ValueError, match="needs momentum > 0"):
        SGD(nesterov=True)


# --- Adam and AdamW --------------------------------------------------------------------------------------------------

ADAMS = [(False, 0.0), (False, 0.02), (True, 0.02)]


@pytest.mark.parametrize(("decoupled", "weight_decay"), ADAMS)
def test_steps_are_torch_adams_bitwise(decoupled, weight_decay):
    ours = Adam((0.8, 0.95), 1e-6, weight_decay, decoupled)
    parameters = tensors(0)
    slots = ours.init(parameters)
    theirs = {name: torch.nn.Parameter(p.clone()) for name, p in parameters.items()}
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind(theirs.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=weight_decay, foreach=False)
    for step, rate in enumerate([0.1, 0.1, 0.03, 0.7, 0.0, 0.01]):
        gradient = tensors(100 + step)
        parameters, slots = ours.update(parameters, gradient, slots, rate, step)
        optimizer.param_groups[0]["lr"] = rate
        for name, p in theirs.items():
            p.grad = gradient[name].clone()
        optimizer.step()
        for name, p in theirs.items():
            assert torch.equal(parameters[name], p), (step, name)
            assert torch.equal(slots[f"mean:{name}"], optimizer.state[p]["exp_avg"])
            assert torch.equal(slots[f"square:{name}"], optimizer.state[p]["exp_avg_sq"])


@given(
    betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.999)),
    kind=st.sampled_from(ADAMS),
    rate=st.one_of(st.floats(0, 2), st.lists(st.floats(0, 2), min_size=2, max_size=2)),
    step=st.one_of(st.integers(0, 50), st.lists(st.integers(0, 50), min_size=2, max_size=2)),
    seed=st.integers(0, 1000),
)
@settings(max_examples=50)
def test_adams_reverse_is_the_vector_jacobian_product_of_update(betas, kind, rate, step, seed):
    optimizer = Adam(betas, 1e-3, kind[1], kind[0])
    rate = torch.tensor(rate, dtype=torch.float64) if isinstance(rate, list) else rate
    step = np.asarray(step) if isinstance(step, list) else step
    parameters, gradient, d_parameters = (tensors(seed + i, torch.float64, (2,)) for i in range(3))
    slots, d_slots = optimizer.init(parameters), optimizer.init(parameters)
    rng = torch.Generator().manual_seed(seed)
    for name, slot in slots.items():
        slot += torch.randn(slot.shape, generator=rng, dtype=slot.dtype)
        d_slots[name] += torch.randn(slot.shape, generator=rng, dtype=slot.dtype)
        if name.startswith("square"):
            slot.abs_()
    inputs = [t.requires_grad_() for group in (gradient, parameters, slots) for t in group.values()]
    new_parameters, new_slots = optimizer.update(parameters, gradient, slots, rate, step)
    expected = torch.autograd.grad(
        [*new_parameters.values(), *new_slots.values()], inputs, [*d_parameters.values(), *d_slots.values()]
    )
    with torch.no_grad():
        found = optimizer.reverse(d_parameters, d_slots, rate, step, parameters, gradient, slots)
    for e, f in zip(expected, (t for group in found for t in group.values()), strict=True):
        torch.testing.assert_close(f, e, rtol=1e-9, atol=1e-9)


def test_named_optimizers_refuse_what_they_do_not_have():
    shared = {"momentum": 0.9, "weight_decay": 0.0, "nesterov": False}
    assert make_optimizer("adamw", {"betas": [0.5, 0.9]}, **shared).betas == (0.5, 0.9)
    with pytest.raises(ValueError, match="did you mean 'adam'"):
        make_optimizer("adan", **shared)
    with pytest.raises(TypeError, match="takes no options, found 'betas'"):
        make_optimizer("sgd", {"betas": (0.9, 0.99)}, **shared)
    with pytest.raises(TypeError, match="did you mean 'betas'"):
        make_optimizer("adam", {"beta": 0.9}, **shared)
    with pytest.raises(ValueError, match="nesterov"):
        make_optimizer("adam", **(shared | {"nesterov": True}))
    with pytest.raises(ValueError, match=r"betas\[1\] must be a finite number in \[0, 1\)"):
        make_optimizer("adam", {"betas": (0.9, 1.0)}, **shared)
    with pytest.raises(ValueError, match="epsilon must be a finite number above 0"):
        make_optimizer("adam", {"epsilon": 0.0}, **shared)
