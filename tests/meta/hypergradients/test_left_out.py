"""What a training loop of one's own does beside its loss, and what autograd takes for a derivative, is looked for."""

import math
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta

RNG = torch.Generator().manual_seed(0)
X = torch.randn(32, 5, generator=RNG)
Y = torch.randint(3, (32,), generator=RNG)


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, d):
        return d


def hooked(x: torch.Tensor) -> torch.Tensor:
    if x.requires_grad:
        x.register_hook(lambda d: -0.5 * d)
    return x


class Layer(nn.Module):
    """A function between two layers; a buffer follows a weight in one of several ways, and is added to it."""

    def __init__(self, function: Callable = torch.tanh, follow: Callable | None = None) -> None:
        super().__init__()
        self.function, self.follow = function, follow
        self.first, self.norm, self.last = nn.Linear(5, 24), nn.BatchNorm1d(24), nn.Linear(24, 3)
        self.register_buffer("mean", torch.ones(24, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and self.follow:
            self.follow(self)
        hidden = self.norm(F.linear(x.to(self.mean), self.first.weight + self.mean, self.first.bias))
        return self.last(F.dropout(self.function(hidden), 0.1, self.training))


def followed(layer: Layer) -> None:
    with torch.no_grad():
        layer.mean.mul_(0.9).add_(layer.first.weight, alpha=0.1)


def by_list(layer: Layer) -> None:
    layer.mean = 0.5 * layer.mean + 0.5 * torch.tensor(layer.first.weight.tolist()).to(layer.mean)


def loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(X[rows]), Y[rows])


def moved_by(read: Callable) -> Callable:
    """A loss on inputs moved along its own gradient, in which it is flat, divided by a number that was read of it."""

    def adversarial(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        inputs = X[rows].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(inputs), Y[rows]), inputs)
        return F.cross_entropy(model(X[rows] + gradient / read(gradient.norm())), Y[rows])

    return adversarial


READINGS = {
    "float": float,
    ".item()": torch.Tensor.item,
    ".tolist()": torch.Tensor.tolist,
    ".numpy()": lambda x: float(x.detach().numpy()),
    "np.asarray": lambda x: float(np.asarray(x)),
}


def loop(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **changes: Callable) -> object:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    of_loop = {"loss": loss, "objective": lambda m: F.cross_entropy(m(X), Y), **changes}
    return meta.Training.of(model, optimizer, torch.arange(32).split(16), of_loop["loss"], of_loop["objective"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ({"function": Straight.apply}, "the loss"),
        ({"function": lambda x: hooked(x).tanh()}, "the loss"),
        ({"function": lambda x: x.tanh() * x.max().item()}, "the loss, the objective"),
        ({"follow": by_list}, "the loss, the buffer 'mean', the buffer 'norm.running_mean'"),
    ],
    ids=["straight-through", "hook", ".item()", "a list"],
)
def test_what_is_no_derivative_is_named(layer, part, dtype):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match=f"the gradient is incomplete: {part} of the model Layer"):
        loop(Layer(**layer).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    "layer",
    [
        {"function": torch.relu},
        {"function": lambda x: x + (x.sin() - x).detach()},
        {"function": lambda x: x * x.detach().norm()},
        {"follow": followed},
    ],
    ids=["kinks", "straight-through by detach", "detach", "no_grad"],
)
def test_what_is_followed_is_not(layer, dtype):
    torch.manual_seed(0)
    loop(Layer(**layer).to(dtype))  # a warning would be an error


@pytest.mark.parametrize("read", READINGS.values(), ids=READINGS)
def test_a_number_read_of_a_gradient_is_warned_of_where_the_loss_depends_on_it(read):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="the gradient is incomplete: the loss.* of the model Layer"):
        loop(Layer(), loss=moved_by(read))

    def only_looked_at(norm: torch.Tensor) -> torch.Tensor:
        assert read(norm) > 1e-9
        return norm

    loop(Layer(), loss=moved_by(only_looked_at))  # a warning would be an error


@pytest.mark.parametrize("transform", ["grad", "grad by keywords", "jacrev", "vjp"])
def test_a_transform_under_no_grad_is_warned_of_where_the_loss_depends_on_it(transform):
    def adversarial(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        def error(inputs: torch.Tensor) -> torch.Tensor:
            hidden = F.linear(input=inputs, weight=model[0].weight, bias=model[0].bias)
            return F.cross_entropy(model[1](hidden if "keywords" in transform else model[0](inputs)), Y[rows])

        with torch.no_grad():
            if transform == "vjp":
                value, pulled = torch.func.vjp(error, X[rows])
                gradient = pulled(torch.ones_like(value))[0]
            else:
                gradient = getattr(torch.func, transform.split()[0])(error)(X[rows])
            logged.append(gradient.norm().item())
            moved = X[rows] + gradient / gradient.norm() * reads
        return error(moved)

    logged: list[float] = []
    for reads in (0.0, 1.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.manual_seed(0)
            loop(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3)), loss=adversarial)
        assert len(caught) == reads, [str(each.message) for each in caught]
    assert "is incomplete: the loss" in str(caught[0].message)


def flat_in_a_number(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """The loss is least where the number is what it is."""
    outputs = model(X[rows])
    return F.cross_entropy(outputs, Y[rows]) + (outputs - outputs.mean().item()).square().mean()


def of_a_ratio(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    outputs = model(X[rows])
    error, size = F.cross_entropy(outputs, Y[rows]), outputs.square().mean()
    return error + error.item() / size.item() * size


@pytest.mark.parametrize("function", [flat_in_a_number, of_a_ratio])
def test_numbers_are_found_in_single_precision_and_in_ratios(function):
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="is incomplete: the loss of the model Sequential"):
        loop(nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), loss=function)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_numbers_are_found_beside_a_strict_check_of_them(tolerance):
    def checked(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        outputs = model(X[rows].double())
        assert abs(outputs.softmax(1)[0].sum().item() - 1) < tolerance
        return F.cross_entropy(outputs, Y[rows]) + (outputs - outputs.mean().item()).square().mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with pytest.warns(UserWarning, match="is incomplete: the loss of the model Sequential"):
        loop(model, loss=checked, objective=lambda m: F.cross_entropy(m(X.double()), Y))


def test_a_number_that_is_read_from_a_later_step_on_is_found():
    def penalised(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        outputs = model(X[rows])
        return F.cross_entropy(outputs, Y[rows]) + int(rows[0] > 0) * outputs.norm().item() * outputs.square().mean()

    with pytest.warns(UserWarning, match="is incomplete: the loss of the model Linear"):
        loop(nn.Linear(5, 3), loss=penalised)


def test_an_objective_that_reads_a_number_is_warned_of():
    def objective(model: nn.Module) -> torch.Tensor:
        return F.cross_entropy(model(X) / model(X).std().item(), Y)

    with pytest.warns(UserWarning, match="is incomplete: the objective of the model Linear"):
        loop(nn.Linear(5, 3), objective=objective)


def probabilities_are_checked(outputs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    p = outputs.softmax(1)
    np.testing.assert_allclose(p.detach().numpy().sum(1), 1, rtol=1e-5)
    np.random.default_rng(0).choice(3, p=p[0].detach().double().softmax(0).numpy())
    math.acos(min(1.0, F.cosine_similarity(outputs, outputs).mean().item()))
    return losses.mean()


def hard_samples(outputs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return losses[losses >= losses.topk(4).values[-1].item()].mean()


def easy_samples(outputs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    return losses[losses <= float(np.sort(losses.detach().numpy())[4])].mean()


def without_overflow(outputs: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    shift = outputs.max().item()
    return ((outputs - shift).exp().sum(1).log() + shift).mean() + (losses - outputs.logsumexp(1)).mean()


@pytest.mark.parametrize(
    "function", [probabilities_are_checked, hard_samples, easy_samples, without_overflow], ids=lambda f: f.__name__
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_that_decide_nothing_are_not_warned_of(function, dtype):
    def reading(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        outputs = model(X[rows].to(dtype))
        return function(outputs, F.cross_entropy(outputs, Y[rows], reduction="none"))

    torch.manual_seed(0)
    loop(nn.Linear(5, 3).to(dtype), loss=reading, objective=lambda m: F.cross_entropy(m(X.to(dtype)), Y))


def test_a_constant_that_is_read_as_a_number_is_not_warned_of():
    class Tempered(nn.Linear):
        def __init__(self) -> None:
            super().__init__(5, 3)
            self.register_buffer("temperature", torch.tensor(2.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) / self.temperature.item()

    loop(Tempered())


def test_hooks_that_change_a_step_are_refused():
    model = nn.Sequential(nn.Linear(5, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = optimizer.register_step_pre_hook(lambda *_: nn.utils.clip_grad_norm_(model.parameters(), 0.1) and None)
    with pytest.raises(ValueError, match="the optimizer has a hook on its step"):
        loop(model, optimizer)
    handle.remove()
    model[0].register_full_backward_hook(lambda module, d_inputs, d_outputs: None)
    with pytest.raises(ValueError, match="has a backward hook on '0'"):
        loop(model, optimizer)
    with pytest.raises(ValueError, match="has a backward hook on '0'"):
        meta.audit(model, X)


@pytest.mark.parametrize("place", ["loss", "objective"])
def test_parameters_that_are_read_past_the_model_are_refused(place):
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 3))
    kept = list(model.parameters())

    def penalty() -> torch.Tensor:
        return kept[2].square().sum()

    functions = {
        "loss": lambda m, rows: loss(m, rows) + penalty(),
        "objective": lambda m: F.cross_entropy(m(X), Y) + penalty(),
    }
    with pytest.raises(ValueError, match=f"the {place} reads the parameter '1.weight' from outside"):
        loop(model, **{place: functions[place]}).gradient(memory="disk")


def test_a_hyperparameter_that_leaves_the_graph_is_warned_of():
    model, w = nn.Linear(5, 3), torch.tensor(0.7)
    for value, warned in ((lambda w: w, False), (float, True)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            meta.Training.of(
                model, torch.optim.SGD(model.parameters(), lr=0.1), [torch.arange(8)],
                lambda m, rows, w, value=value: value(w) * loss(m, rows), lambda m: loss(m, slice(None)),
                hyperparameters={"w": w},
            )  # fmt: skip
        assert any("parameters or hyperparameters" in str(each.message) for each in caught) == warned
