"""What every named student does: it is built by a seed, takes part in the contract of any network, and refuses."""

import functools

import pytest
import torch

from teachenv.students import STUDENTS, functional_student, make_student, student_options

IMAGES, SENTENCES, OUTPUTS = (3, 32, 32), (12,), 10
# The smallest that an option makes of those that would take long.
SMALL = {
    "wrn": {"depth": 10, "width": 1},
    "densenet": {"depth": 10, "growth": 4},
    "mlp-mixer": {"patch": 8, "width": 8, "depth": 2},
    "transformer": {"width": 16, "layers": 1, "heads": 2, "inner": 16},
    "lstm": {"width": 16},
    "causal-transformer": {"width": 16, "layers": 1, "heads": 2, "inner": 16},
}
LARGE = 1_000_000


@functools.cache
def shape_of(name):
    """The kind of inputs that the network takes: it refuses the others."""
    try:
        make_student(name, IMAGES, OUTPUTS)
    except ValueError:
        return SENTENCES
    return IMAGES


def factory_of(name):
    return make_student(name, shape_of(name), OUTPUTS, SMALL.get(name))


def inputs_of(name, samples=3):
    rng = torch.Generator().manual_seed(0)
    if shape_of(name) == SENTENCES:
        return torch.randint(1, OUTPUTS, (samples, *SENTENCES), generator=rng)
    return torch.randn(samples, *IMAGES, generator=rng)


def count(name):
    with torch.device("meta"):
        return sum(p.numel() for p in factory_of(name)().parameters())


@pytest.mark.parametrize("name", STUDENTS)
def test_a_named_network_is_a_student_as_any_network_of_a_users_own(name):
    """It is compared with a plain PyTorch loop over the module, and no warning says that derivatives leave a part out.

    Of the large ones only the shapes are looked at.
    """
    inputs = inputs_of(name)
    if count(name) > LARGE:
        with torch.device("meta"):
            outputs = factory_of(name)().eval()(torch.empty(inputs.shape))
        assert len(outputs) == len(inputs)
        return
    student = functional_student(factory_of(name), inputs, torch.float32, torch.device("cpu"), known=False)
    parameters, buffers = student.init(0)
    again = student.init(0)[0]
    assert all(torch.equal(p, again[key]) for key, p in parameters.items())
    # Away from the start, where a last layer may be zero and hide the others.
    rng = torch.Generator().manual_seed(2)
    leaves = {key: p + 0.02 * torch.randn(p.shape, generator=rng) for key, p in parameters.items()}
    leaves = {key: p.requires_grad_() for key, p in leaves.items()}
    with student.random_state(0, 0):
        outputs = student(leaves, buffers, inputs, training=True)[0].outputs
    assert outputs.shape == (3, *student.output_shape)
    assert outputs.isfinite().all()
    direction = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad((outputs * direction).sum(), list(leaves.values()))
    still = [key for key, gradient in zip(leaves, gradients, strict=True) if not gradient.any()]
    assert still == [], "these parameters would never move"


@pytest.mark.parametrize("name", STUDENTS)
def test_options_of_a_named_network_are_checked_by_it(name):
    with pytest.raises(TypeError, match="no_such_option"):
        make_student(name, shape_of(name), OUTPUTS, {"no_such_option": 1})
    for option, default in student_options(name).items():
        with pytest.raises(ValueError, match=option):
            make_student(name, shape_of(name), OUTPUTS, {option: object()})()
        assert isinstance(default, int | float | str | tuple)


@pytest.mark.parametrize("name", [name for name in STUDENTS if name != "mlp"])
def test_inputs_that_a_named_network_cannot_take_are_refused(name):
    wrong = IMAGES if name == "causal-transformer" else (7,)
    with pytest.raises(ValueError, match=rf"student '{name}' takes .* found inputs"):
        make_student(name, wrong, OUTPUTS)
