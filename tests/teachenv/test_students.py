import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from teachenv.randomness import torch_seed
from teachenv.students import STUDENTS, functional_student, make_student
from teachenv.students.batch_norm import batch_normalized
from teachenv.students.kernels import DifferentiableKernels

SHAPES = {"digits": (64,), "mnist": (1, 28, 28), "cifar": (3, 32, 32)}


def functional(factory, *shape, batch=6, dtype=torch.float64, **options):
    example = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    return functional_student(factory, example, dtype, torch.device("cpu"), **options), example


TORCHVISION = ("resnet-18", "resnet-50", "mobilenet-v2", "vit", "swin")


def count(module):
    return sum(p.numel() for p in module.parameters())


# --- the papers' networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "options", "weights"),
    [
        ("mlp", "digits", {}, [(32, 64), (10, 32)]),
        ("mlp", "mnist", {}, [(500, 784), (10, 500)]),
        ("mlp", "digits", {"hidden": [20, 30], "activation": "relu"}, [(20, 64), (30, 20), (10, 30)]),
        ("mlp", "digits", {"hidden": []}, [(10, 64)]),
        ("lenet", "mnist", {}, [(20, 1, 5, 5), (50, 20, 5, 5), (500, 800), (10, 500)]),
        ("lenet", "cifar", {}, [(20, 3, 5, 5), (50, 20, 5, 5), (500, 1250), (10, 500)]),
        (
            "resnet8",
            "cifar",
            {},
            [
                (16, 3, 3, 3),
                *[(16, 16, 3, 3)] * 2,
                *[(32, 16, 3, 3), (32, 32, 3, 3)],
                *[(64, 32, 3, 3), (64, 64, 3, 3)],
                (10, 64),
            ],
        ),
    ],
)
def test_weights_have_the_papers_shapes(name, data, options, weights):
    module = make_student(name, SHAPES[data], 10, options)()
    assert [tuple(p.shape) for p in module.parameters() if p.ndim > 1] == weights
    assert module(torch.randn(3, *SHAPES[data])).shape == (3, 10)


def test_parameters_are_counted():
    assert count(make_student("mlp", SHAPES["digits"], 10)()) == 64 * 32 + 32 + 32 * 10 + 10
    assert count(make_student("mlp", SHAPES["mnist"], 10)()) == 397_510
    assert count(make_student("lenet", SHAPES["mnist"], 10)()) == 431_080  # the classic count of this LeNet
    assert count(make_student("resnet20", SHAPES["cifar"], 10)()) == 269_722  # He et al.: 0.27 M
    assert count(make_student("resnet32", SHAPES["cifar"], 10)()) == 464_154  # 0.46 M
    wide = [count(make_student(f"resnet{layers}-wide", SHAPES["cifar"], 10)()) for layers in (8, 20, 32)]
    assert wide == [1_235_274, 4_335_434, 7_435_594]  # of L2T-DLN's released code
    convolutions = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64)
    assert count(make_student("resnet8", SHAPES["cifar"], 10)()) == convolutions + 2 * (3 * 16 + 2 * 32 + 2 * 64) + 650


@pytest.mark.parametrize(
    ("name", "options", "layers", "millions"),
    [
        ("wrn", {}, 40, 55.8),
        ("wrn", {"width": 4}, 40, 8.9),
        ("wrn", {"depth": 28}, 28, 36.5),
        ("wrn", {"depth": 16, "width": 8}, 16, 11.0),
        ("densenet", {}, 190, 25.6),
        ("densenet", {"depth": 100, "growth": 12}, 100, 0.8),
        ("densenet", {"depth": 250, "growth": 24}, 250, 15.3),
    ],
)
def test_the_large_networks_have_as_many_parameters_as_their_papers_say(name, options, layers, millions):
    with torch.device("meta"):
        module = make_student(name, SHAPES["cifar"], 10, options)()
    assert round(count(module) / 1e6, 1) == millions
    # As the papers count: of a wide ResNet the convolutions, those of shortcuts too, of a DenseNet also the last layer.
    kinds = nn.Conv2d if name == "wrn" else nn.Conv2d | nn.Linear
    assert sum(isinstance(m, kinds) for m in module.modules()) == layers


@pytest.mark.parametrize(
    ("patch", "width", "depth", "millions"), [(16, 512, 8, 18), (32, 512, 8, 19), (16, 768, 12, 59), (32, 768, 12, 60)]
)
def test_mixers_have_as_many_parameters_as_the_paper_says(patch, width, depth, millions):
    options = {"patch": patch, "width": width, "depth": depth}
    with torch.device("meta"):
        module = make_student("mlp-mixer", (3, 224, 224), 1000, options)()
    # Table 1 gives whole millions, rounded down.
    assert count(module) // 1_000_000 == millions


def test_a_mixer_needs_whole_patches():
    with pytest.raises(ValueError, match="multiple of patch=5, found 32"):
        make_student("mlp-mixer", SHAPES["cifar"], 10, {"patch": 5})()


@pytest.mark.parametrize(("name", "options"), [("wrn", {"depth": 16, "width": 2}), ("densenet", {"depth": 10})])
def test_small_versions_of_the_large_networks_run(name, options):
    module = make_student(name, SHAPES["cifar"], 10, options)()
    assert module(torch.randn(3, *SHAPES["cifar"])).shape == (3, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn", {"depth": 20}, r"6n \+ 4 .* found 20"),
        ("wrn", {"width": 0}, "width must be an integer of at least 1"),
        ("densenet", {"depth": 5}, r"6n \+ 4 .* found 5"),
        ("densenet", {"growth": 0}, "growth must be an integer of at least 1"),
    ],
)
def test_depths_that_no_network_has_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_student(name, SHAPES["cifar"], 10, options)()


def test_resnet_shortcuts_take_every_second_pixel_and_pad_channels():
    block = make_student("resnet8", SHAPES["cifar"], 10)().blocks[1].eval()
    nn.init.zeros_(block.norm2.weight)  # what is left of the block is its shortcut
    x = torch.rand(2, 16, 8, 8)
    out = block(x)
    assert torch.equal(out[:, :16], x[:, :, ::2, ::2])
    assert (out[:, 16:] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("mpl", (64,), 10), ValueError, "did you mean 'mlp'"),
        (("lenet", (64,), 10), ValueError, "square images"),
        (("resnet8", (3, 8, 8), 10), ValueError, r"found inputs of shape \(3, 8, 8\)"),
        (("resnet8-wide", (3, 28, 28), 10), ValueError, "32×32 pixels, found 28×28"),
        (("mlp", (64,), 10, {"activation": "tahn"}), ValueError, "did you mean 'tanh'"),
        (("mlp", (64,), 10, {"hiden": [3]}), TypeError, "hiden"),
    ],
)
def test_bad_students_are_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        make_student(*arguments)()


# --- a network as a pure function ------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


def frozen():
    module = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    return module


def normed():
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3))


def weight_normed():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3))


def spectral_normed():
    return nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 3))


def dropped():
    return nn.Sequential(nn.Linear(5, 40), nn.Dropout(0.5), nn.Linear(40, 3))


NETWORKS = [Tied, frozen, normed, weight_normed, spectral_normed, dropped]


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("factory", NETWORKS)
def test_a_student_is_its_module_and_leaves_its_arguments_as_they_are(factory, training, differentiable):
    student, x = functional(factory, 5)
    parameters, buffers = student.init(3)
    before = {name: t.clone() for name, t in (parameters | buffers).items()}
    with torch_seed(3, 0):
        module = factory().double().train(training)
    with torch_seed(0, 4, 7):
        expected = module(x)
    with student.random_state(0, 7):
        prediction, new_buffers = student(
            parameters, buffers, x, training=training, differentiable=differentiable, with_head=True
        )
    torch.testing.assert_close(prediction.outputs, expected, rtol=1e-12, atol=1e-12)
    head_bias = getattr(module[-1] if isinstance(module, nn.Sequential) else module.decode, "bias", None)
    from_head = nn.functional.linear(prediction.features, prediction.head_weight, head_bias)
    torch.testing.assert_close(from_head, prediction.outputs)
    after = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, value in new_buffers.items():
        torch.testing.assert_close(value, after[name].detach(), rtol=1e-12, atol=1e-12)
    assert all(torch.equal(t, before[name]) for name, t in (parameters | buffers).items())


@pytest.mark.parametrize("factory", NETWORKS)
def test_initialisation_is_a_function_of_the_seed(factory):
    student, _ = functional(factory, 5)
    first, again, other = (student.init(seed)[0] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_only_what_trains_is_a_parameter():
    assert list(functional(Tied, 5)[0].init(0)[0]) == ["encode.weight"]
    parameters, buffers = functional(frozen, 5)[0].init(0)
    assert set(parameters) == {"2.weight", "2.bias"}
    assert set(buffers) == {"0.weight", "0.bias"}
    parameters, _ = functional(weight_normed, 5)[0].init(0)
    assert {"0.parametrizations.weight.original0", "0.parametrizations.weight.original1"} < set(parameters)


def test_gradients_are_the_modules_also_through_tied_weights_and_parametrisations():
    for factory in (Tied, weight_normed, frozen):
        student, x = functional(factory, 5)
        parameters, buffers = student.init(3)
        parameters = {name: p.requires_grad_() for name, p in parameters.items()}
        loss = student(parameters, buffers, x, training=True)[0].outputs.square().sum()
        found = torch.autograd.grad(loss, list(parameters.values()))
        with torch_seed(3, 0):
            module = factory().double()
        expected = torch.autograd.grad(module(x).square().sum(), [p for p in module.parameters() if p.requires_grad])
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_dropout_is_a_function_of_seed_and_step_and_off_in_evaluation():
    student, x = functional(dropped, 5)
    state = student.init(0)

    def outputs(seed, step, training=True):
        with student.random_state(seed, step):
            return student(*state, x, training=training)[0].outputs

    assert student.stochastic
    assert torch.equal(outputs(1, 2), outputs(1, 2))
    assert not torch.equal(outputs(1, 2), outputs(1, 3))
    assert not torch.equal(outputs(1, 2), outputs(2, 2))
    assert torch.equal(outputs(1, 2, training=False), outputs(1, 3, training=False))
    assert not functional(normed, 5)[0].stochastic


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (lambda: 3, "must return a torch.nn.Module, found int"),
        (nn.Linear(5, 3), "a function that builds a fresh torch.nn.Module, found Linear"),
        (None, "found NoneType"),
        (nn.Tanh, "no trainable parameter"),
        (nn.Linear, r"must need no argument, found .*in_features.*; pass lambda: MyNetwork\(...\)"),
        (lambda: nn.Linear(4, 3), r"fails on inputs of shape \(6, 5\)"),
    ],
)
def test_products_that_are_no_students_are_errors(factory, message):
    with pytest.raises(ValueError, match=message):
        functional(factory, 5)


def test_a_network_that_fails_on_a_whole_minibatch_alone_is_refused_when_it_is_made():
    class OfFew(nn.Linear):
        def forward(self, inputs):
            if len(inputs) > 12:
                raise RuntimeError("too many")
            return super().forward(inputs)

    functional(lambda: OfFew(5, 3), 5, batch=12)
    with pytest.raises(ValueError, match=r"fails on inputs of shape \(13, 5\).*too many"):
        functional(lambda: OfFew(5, 3), 5, batch=13)


def test_an_error_within_a_factory_is_its_own():
    with pytest.raises(TypeError, match=r"^Linear.*missing 1 required.*out_features"):
        functional(lambda: nn.Linear(3), 5)


def test_a_loss_on_the_last_layer_needs_a_linear_one():
    student, x = functional(lambda: nn.Sequential(nn.Linear(5, 3), nn.Tanh()), 5)
    with pytest.raises(ValueError, match=r"does not end in a torch\.nn\.Linear"):
        student(*student.init(0), x, training=True, with_head=True)


def test_named_students_know_their_convolutions():
    small = {"wrn": {"depth": 10, "width": 1}, "densenet": {"depth": 10, "growth": 4}}
    made = {
        name: make_student(name, (1, 32, 32), 10, small.get(name))
        for name in STUDENTS
        if name not in ("lstm", "transformer", "causal-transformer", *TORCHVISION)  # of tokens: tests of their tasks
    }
    has = {
        name: functional(factory, 1, 32, 32, batch=2, dtype=torch.float32, known=True)[0].has_convolutions
        for name, factory in made.items()
    }
    assert has == {name: name != "mlp" for name in has}


@pytest.mark.parametrize("name", [name for name in TORCHVISION if name != "resnet-50"])
def test_torchvisions_networks_are_students_of_small_images(name):
    # Not as known ones: all that is asked of a network of a user's own is checked.
    student, x = functional(make_student(name, (3, 16, 16), 7), 3, 16, 16, batch=2)
    assert student.has_convolutions
    assert student(*student.init(0), x, training=False)[0].outputs.shape == (2, 7)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_fit_larger_images(name):
    with torch.device("meta"):
        assert make_student(name, (3, 64, 64), 7)().eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("vit", (3, 72, 72), r"multiple of its patches' \(16\), found 72"),
        ("vit", (3, 44, 44), r"multiple of its patches' \(5\), found 44"),
        ("swin", (1, 32, 32), "three channels, found 1"),
        ("resnet-18", (3, 32, 48), "square images"),
    ],
)
def test_images_that_a_network_of_torchvision_cannot_take_are_named(name, shape, message):
    with pytest.raises(ValueError, match=message):
        make_student(name, shape, 7)()


# --- batch norm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.1, 0.5, None])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm1d, (6, 4)), (nn.BatchNorm1d, (6, 4, 3)), (nn.BatchNorm2d, (6, 4, 3, 2))]
)
@pytest.mark.parametrize("fused", [True, False])
def test_the_differentiable_form_is_torchs_batch_norm(layer, shape, affine, momentum, fused):
    theirs = layer(4, momentum=momentum, affine=affine).double()
    if affine:
        nn.init.uniform_(theirs.weight, 0.5, 2.0)
        nn.init.normal_(theirs.bias)
    ours = layer(4, momentum=momentum, affine=affine).double()
    ours.load_state_dict(theirs.state_dict())
    rng = torch.Generator().manual_seed(0)
    for step in range(4):
        x = 3 + 2 * torch.randn(*shape, generator=rng, dtype=torch.float64)
        ours.train(step < 3)
        theirs.train(step < 3)
        with DifferentiableKernels(fused=fused) as kernels:
            outputs = ours(x)
        assert kernels.used
        torch.testing.assert_close(outputs, theirs(x), rtol=1e-12, atol=1e-12)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-12, atol=1e-12)


def test_the_differentiable_form_differentiates_the_path_through_running_statistics():
    student, x = functional(normed, 5)
    parameters, buffers = student.init(0)

    def evaluated(weight):
        _, new = student(parameters | {"0.weight": weight}, buffers, x, training=True, differentiable=True)
        return student(parameters, new, x, training=False, differentiable=True)[0].outputs

    weight = parameters["0.weight"].clone().requires_grad_()
    assert torch.autograd.gradcheck(evaluated, weight)
    assert torch.autograd.gradgradcheck(evaluated, weight)


@pytest.mark.parametrize("shape", [(6, 3), (5, 3, 4), (4, 3, 3, 2)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_the_fused_normalisation_has_torchs_value_and_the_right_second_derivative(shape, affine):
    rng = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*s, generator=rng, dtype=torch.float64).requires_grad_() for s in (shape, (3,), (3,))
    )

    def normalized(x, *of_channels):
        return batch_normalized(x, *(of_channels or (None, None)), 1e-3)

    inputs = (x, weight, bias) if affine else (x,)
    wanted = nn.functional.batch_norm(x, None, None, *((weight, bias) if affine else ()), training=True, eps=1e-3)
    assert torch.equal(normalized(*inputs), wanted)
    assert torch.autograd.gradcheck(normalized, inputs)
    assert torch.autograd.gradgradcheck(normalized, inputs)


def test_evaluation_uses_the_statistics_it_is_given():
    student, x = functional(normed, 5)
    parameters, buffers = student.init(0)
    moved = buffers | {"1.running_mean": buffers["1.running_mean"] + 1}
    one, other = (student(parameters, b, x, training=False)[0].outputs for b in (buffers, moved))
    assert not torch.allclose(one, other)
    batches = (student(parameters, b, x, training=True)[0].outputs for b in (buffers, moved))
    torch.testing.assert_close(*batches)
