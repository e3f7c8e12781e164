"""Every network trains the same in every way that teachenv trains it, or is refused by name.

A kind of student joins by one line in `STUDENTS`, one that cannot be trained by one in `REFUSED`.
"""

import copy
import functools
import pickle
import random
import types
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import teachenv
from meta import ActionGradient, VectorActionGradient
from teachenv.randomness import Purpose, all_seeded

INPUTS, CLASSES, HORIZON = 6, 3, 3


def task():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, INPUTS, generator=rng, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return teachenv.Task("points", dataset="points", pool=(x[:32], y[:32]), test=(x[32:], y[32:]), num_outputs=CLASSES)


SETTINGS = {
    "task": task(),
    "horizon": HORIZON,
    "batch_size": 4,
    "dev_size": 12,
    "learning_rate": 0.3,
    "momentum": 0.5,
    "dtype": "float64",
}


def around(*middle):
    """A network with something in its middle, of eight features."""
    return nn.Sequential(nn.Linear(INPUTS, 8), *middle, nn.Tanh(), nn.Linear(8, CLASSES))


class Forward(nn.Module):
    """A module from what it does: `forward(self, x)`, and attributes."""

    def __init__(self, forward, buffers=(), **attributes):
        super().__init__()
        self.does = forward
        for name in buffers:
            self.register_buffer(name, torch.zeros(8))
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.does(self, x)


class NormAndActivation(nn.BatchNorm1d):
    def forward(self, x):
        return torch.tanh(super().forward(x))


class LazyLoud(nn.LazyLinear):
    def forward(self, x):
        return 2 * super().forward(x)


class LazyAndLinear(LazyLoud):
    cls_to_become = None


class StandardizedLinear(nn.Linear):
    def forward(self, x):
        return F.linear(x, self.weight / self.weight.norm(), self.bias)


def running_mean(self, x):
    if self.training:
        with torch.no_grad():
            self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return x - self.mean


def running_mean_detached(self, x):
    if self.training:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
    return x - self.mean


def running_mean_with_graph(self, x):
    if self.training:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
    return x - self.mean


def running_norm_functional(self, x):
    return F.batch_norm(x, self.mean, self.mean, training=False) + F.batch_norm(x, None, None, training=True)


def counting(self, x):
    self.calls += 1
    return x


def caching(self, x):
    if self.ones is None:
        self.ones = torch.ones(x.shape[1:], dtype=x.dtype)
    self.seen = x
    return x * self.ones


def layer_drop(self, x):
    return x + torch.tanh(self.inner(x)) if not self.training or random.random() > 0.5 else x


def numpy_noise(self, x):
    return x * float(1 + 0.1 * np.random.standard_normal()) if self.training else x  # noqa: NPY002


def branching(self, x):
    return torch.tanh(x) if x.sum() > 0 else x * 0.5


class Square(torch.autograd.Function):
    """Has no rule for vmap."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved_tensors[0] * grad


class Closed(nn.Module):
    """A function in an attribute that holds on to the module."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(INPUTS, 8), nn.Linear(8, CLASSES)
        self.function = lambda x: torch.tanh(self.enter(x))

    def forward(self, x):
        return self.leave(self.function(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.leave = nn.Linear(INPUTS, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.leave(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Scaled(nn.Module):
    """A weight made anew from parameters, kept as a plain attribute."""

    def __init__(self):
        super().__init__()
        self.direction, self.scale = nn.Parameter(torch.randn(CLASSES, INPUTS)), nn.Parameter(torch.ones(CLASSES, 1))
        self.weight = self.scale * self.direction

    def forward(self, x):
        self.weight = self.scale * self.direction
        return x @ self.weight.t()


class FrozenNorm(nn.Module):
    """Keeps its batch norm in evaluation mode by its own `train`."""

    def __init__(self):
        super().__init__()
        self.net = around(nn.BatchNorm1d(8))

    def train(self, mode=True):
        super().train(mode)
        self.net[1].eval()
        return self

    def forward(self, x):
        return self.net(x)


def ascending(self, x):
    """Moves its input along a gradient that it takes itself."""
    with torch.enable_grad():
        at = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(at.tanh().pow(3).sum(), at)
    return x + slope / slope.norm()


def ascending_by_backward(self, x):
    with torch.enable_grad():
        at = x.detach()
        at.requires_grad = True
        for power in (2, 3):
            at.tanh().pow(power).sum().backward()
    slope = at.grad.data
    at.grad = None
    return x + slope / slope.norm()


class Averaged(nn.Module):
    """Evaluates by an average of the weights, in a frozen copy of the layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.average = copy.deepcopy(self.layer).requires_grad_(False)

    def forward(self, x):
        if not self.training:
            return self.average(x)
        with torch.no_grad():
            for average, now in zip(self.average.parameters(), self.layer.parameters(), strict=True):
                average.mul_(0.9).add_(now, alpha=0.1)
        return self.layer(x)


class Answer(nn.Linear):
    def forward(self, x):
        return self.wrap(super().forward(x))


def answer(wrap):
    module = Answer(INPUTS, CLASSES)
    module.wrap = wrap
    return module


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        self.enter, self.leave = nn.Linear(3, 4), nn.Linear(4, CLASSES)

    def forward(self, x):
        return self.leave(self.encoder(self.enter(x.view(-1, 2, 3))).mean(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.leave = nn.GRU(3, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.leave(self.cell(x.view(-1, 2, 3))[0][:, -1])


class Channels(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.convolve, self.norm, self.leave = nn.Conv1d(1, 2, 3), norm, nn.Linear(8, CLASSES)

    def forward(self, x):
        return self.leave(torch.tanh(self.norm(self.convolve(x.unsqueeze(1)))).flatten(1))


def old(norm, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(norm(nn.Linear(INPUTS, 8), **options), nn.Tanh(), nn.Linear(8, CLASSES))


def hooked():
    module = around()
    module[0].register_forward_hook(lambda _m, _i, out: out * torch.sigmoid(module[2].bias.sum()))
    module[1].register_forward_pre_hook(lambda _m, inputs: (inputs[0] + 0.1,))
    return module


def frozen():
    module = around()
    module[0].requires_grad_(False)
    return module


def unused():
    module = Tied()
    module.spare = nn.Linear(2, 2)
    return module


STUDENTS = {
    "perceptron": around,
    "batch norm": lambda: around(nn.BatchNorm1d(8)),
    "batch norm, cumulative": lambda: around(nn.BatchNorm1d(8, momentum=None)),
    "batch norm and activation in one": lambda: around(NormAndActivation(8)),
    "batch norm without statistics": lambda: around(nn.BatchNorm1d(8, track_running_stats=False)),
    "batch norm in eval() mode": lambda: around(nn.BatchNorm1d(8)).eval(),
    "batch norm that stays in evaluation mode": FrozenNorm,
    "dropout": lambda: around(nn.Dropout(0.5)),
    "dropout in eval() mode": lambda: around(nn.Dropout(0.5)).eval(),
    "instance norm with statistics": lambda: Channels(nn.InstanceNorm1d(2, affine=True, track_running_stats=True)),
    "group norm": lambda: Channels(nn.GroupNorm(2, 2)),
    "layer norm": lambda: around(nn.LayerNorm(8)),
    "weight norm": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(INPUTS, 8)), nn.Tanh(), nn.Linear(8, 3)
    ),
    "old weight norm": lambda: old(nn.utils.weight_norm),
    "spectral norm": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(INPUTS, 8)), nn.Linear(8, 3)),
    "old spectral norm": lambda: old(nn.utils.spectral_norm),
    "orthogonal weight": lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(INPUTS, 6)), nn.Linear(6, 3)),
    "subclass of linear": lambda: nn.Sequential(StandardizedLinear(INPUTS, 8), nn.Tanh(), nn.Linear(8, CLASSES)),
    "a weight kept as attribute": Scaled,
    "tied weights": Tied,
    "frozen layer": frozen,
    "unused layer": unused,
    "average of weights in a frozen layer": lambda: around(Averaged()),
    "hooks": hooked,
    "a function that holds the module": Closed,
    "running mean under no_grad": lambda: around(Forward(running_mean, ["mean"])),
    "running mean of what is detached": lambda: around(Forward(running_mean_detached, ["mean"])),
    "running mean with its graph": lambda: around(Forward(running_mean_with_graph, ["mean"])),
    "a gradient taken inside": lambda: around(Forward(ascending)),
    "gradients taken inside by backward": lambda: around(Forward(ascending_by_backward)),
    "a counter that nothing reads": lambda: around(Forward(counting, calls=0)),
    "a cache of what never changes": lambda: around(Forward(caching, ones=None)),
    "LayerDrop by Python's generator": lambda: around(Forward(layer_drop, inner=nn.Linear(8, 8))),
    "noise by NumPy's generator": lambda: around(Forward(numpy_noise)),
    "control flow that depends on data": lambda: around(Forward(branching)),
    "an operation without a rule for vmap": lambda: around(Forward(lambda self, x: Square.apply(x))),
    "lazy layer": lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.Tanh(), nn.Linear(8, CLASSES)),
    "subclass of a lazy layer": lambda: nn.Sequential(LazyAndLinear(8), nn.Tanh(), nn.Linear(8, CLASSES)),
    "attention": Attention,
    "recurrent": Recurrent,
    "logits in a dictionary": lambda: answer(lambda z: {"logits": z}),
    "logits as attribute": lambda: answer(lambda z: types.SimpleNamespace(logits=z)),
}


def plain_loop(factory, env):
    """The same training as a loop in plain PyTorch over the module; its outputs on dev at the end."""
    episode, (inputs, labels) = env.episode, env.problem.task.pool
    with all_seeded(episode.seeds[0], Purpose.INIT):
        module = factory().double()
        if any(isinstance(m, nn.modules.lazy.LazyModuleMixin) for m in module.modules()):
            module.eval()(torch.zeros(2, INPUTS, dtype=torch.float64))
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.3, momentum=0.5)

    def logits(x):
        outputs = module(x)
        outputs = outputs["logits"] if isinstance(outputs, dict) else outputs
        return getattr(outputs, "logits", outputs)

    for t in range(HORIZON):
        module.train()
        batch = episode.batches[t]
        optimizer.zero_grad()
        with all_seeded(episode.seeds[0], Purpose.DROPOUT, t):
            loss = F.cross_entropy(logits(inputs[batch]), labels[batch])
        loss.backward()
        for child in module.modules():  # the one thing that a loop must do about a buffer with a graph
            child._buffers.update({key: b.detach() for key, b in child._buffers.items() if b is not None})
        optimizer.step()
    module.eval()
    with torch.no_grad():
        return logits(inputs[episode.dev])


def trained(env, actions):
    """(Last info, observations) of an episode."""
    env.reset(seed=3)
    observations = []
    for action in actions:
        observation, *_, info = env.step(action)
        observations.append(observation)
    return info, observations


def objective(env, actions):
    return trained(env, actions)[0]["objective"]


@functools.cache
def actions():
    return np.random.default_rng(0).uniform(-0.3, 0.3, (HORIZON, CLASSES * CLASSES))


def differences(env):
    """Central differences of the return in the first two coordinates of the first and second action."""
    found = np.zeros((2, 2))
    for t, i in np.ndindex(2, 2):
        moved = [actions().copy() for _ in "+-"]
        moved[0][t, i] += 1e-5
        moved[1][t, i] -= 1e-5
        found[t, i] = (objective(env, moved[0]) - objective(env, moved[1])) / 2e-5
    return found


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning", "ignore:.*is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
@pytest.mark.parametrize("kind", STUDENTS)
def test_a_student_is_the_same_in_every_way_of_training_it(kind):
    factory = STUDENTS[kind]
    options = SETTINGS | {"student": factory}
    states = random.getstate(), torch.get_rng_state()
    env = teachenv.TeachEnv(**options)
    neutral = np.zeros((HORIZON, CLASSES * CLASSES))

    # A plain loop over the module, by the zero action.
    trained(env, neutral)
    found = env.dynamics.outputs(env.student, env.problem.task.pool[0][env.episode.dev])
    torch.testing.assert_close(found, plain_loop(factory, env), rtol=1e-10, atol=1e-10)

    # Once more, and in a batch of two by both ways where both are possible.
    info, observations = trained(env, actions())
    again, same = trained(env, actions())
    assert info == again
    assert np.array_equal(observations, same)
    wanted = differences(env)
    batches = [teachenv.TeachVectorEnv(num_envs=2, **options)]
    if batches[0].path != "loop":
        batches.append(teachenv.TeachVectorEnv(num_envs=2, path="loop", **options))
    for batch in batches:
        many, path = VectorActionGradient(batch), batch.path
        infos, _ = trained(many, np.stack([actions()] * 2, 1))
        assert infos["final_info"]["objective"][0] == pytest.approx(info["objective"], rel=1e-10)
        np.testing.assert_allclose(infos["action_gradient"][0, :2, :2], wanted, rtol=2e-5, atol=2e-8, err_msg=path)

    # The derivative of the return, against central differences of it.
    for method in ("rmd", "finite-difference"):
        gradient = trained(ActionGradient(env, method=method), actions())[0]["action_gradient"]
        np.testing.assert_allclose(gradient[:2, :2], wanted, rtol=2e-5, atol=2e-8, err_msg=method)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])


# --- what cannot be trained so ----------------------------------------------------------------------------------------


def annealed(self, x):
    self.passes += self.training
    return x * min(1.0, self.passes / 10)


def late(self, x):
    self.passes += self.training
    return x * (0.5 if self.passes > 500 else 1.0)


def mean_outside(self, x):
    if self.training:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
    return x - self.mean


def mean_late(self, x):
    if self.training:
        now = x.detach().mean(0)
        self.mean = now if self.mean is None else 0.9 * self.mean + 0.1 * now
    return x if self.mean is None else x - self.mean


def mean_in_evaluation(self, x):
    with torch.no_grad():
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return x - self.mean


def remembering(self, x):
    self.past["sizes"].append(float(x.detach().norm()))
    return x / max(self.past["sizes"])


def drawing(self, x):
    return x * float(1 + 0.1 * self.rng.standard_normal()) if self.training else x


def drawing_by_torch(self, x):
    return x + torch.randn(x.shape, generator=self.rng, dtype=x.dtype) if self.training else x


def dropping_more_and_more(self, x):
    self.drop.p += 0.001 * self.training
    return self.drop(x)


def making(self, x):
    if self.layer is None:
        self.layer = nn.Linear(8, 8).to(x)
    return self.layer(x)


def clipping(self, x):
    with torch.no_grad():
        self.layer.weight.renorm_(2, 0, 0.3)
    return self.layer(x)


def keeping_for_evaluation(self, x):
    if self.training:
        self.kept = None
        return F.linear(x, self.layer.weight / self.layer.weight.norm())
    if self.kept is None:
        self.kept = (self.layer.weight / self.layer.weight.norm()).detach()
    return F.linear(x, self.kept)


def checkpointed(self, x):
    return torch.utils.checkpoint.checkpoint(lambda x: torch.tanh(self.layer(x)), x, use_reentrant=False)


class Merging(nn.Module):
    """A low-rank update that `eval()` merges into the weight."""

    def __init__(self):
        super().__init__()
        self.weight, self.merged = nn.Parameter(torch.randn(8, 8)), False
        self.one, self.two = nn.Parameter(torch.randn(8, 2)), nn.Parameter(torch.zeros(2, 8))

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.weight.data += (-1 if mode else 1) * self.one.data @ self.two.data
            self.merged = not mode
        return self

    def forward(self, x):
        return x @ self.weight if self.merged else x @ self.weight + x @ self.one @ self.two


class CountedGlobally(nn.Module):
    passes = 0

    def forward(self, x):
        CountedGlobally.passes += 1
        return x * (1 + CountedGlobally.passes / 10)


class OnlyInTraining(nn.Linear):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)


class OnlyInEvaluation(nn.Linear):
    def forward(self, x):
        return super().forward(x) if self.training else {"out": super().forward(x)}


def kept_in_a_list():
    module = around(Forward(lambda self, x: x @ self.weights[0], layer=nn.Linear(8, 8)))
    module[1].weights = [module[1].layer.weight]
    return module


def with_backward_hook() -> nn.Module:
    module = around(nn.Tanh())
    module[1].register_full_backward_hook(lambda layer, d_inputs, d_outputs: None)
    return module


def with_gradient_hook():
    module = around()
    module[0].weight.register_hook(lambda grad: 0.5 * grad)
    return module


def complex_weight():
    module = around()
    module.phase = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    return module


def by_own_generator(rng=np.random.default_rng(0)):  # noqa: B008 - one for all networks, which is the fault
    module = around()
    module[0].weight.data = torch.from_numpy(rng.standard_normal((8, INPUTS)))
    return module


ONE = around()

REFUSED = {
    "a counter that anneals": (lambda: around(Forward(annealed, passes=0)), "'1'.*'passes'.*register_buffer"),
    "a counter that is read late": (lambda: around(Forward(late, passes=0)), "'1'.*'passes'.*register_buffer"),
    "a tensor outside the buffers": (
        lambda: around(Forward(mean_outside, mean=torch.zeros(8).double())),
        "'1'.*'mean'.*register_buffer",
    ),
    "a tensor made late": (lambda: around(Forward(mean_late, mean=None)), "'mean'.*register_buffer"),
    "a history in a dictionary": (lambda: around(Forward(remembering, past={"sizes": []})), "'past'.*register_buffer"),
    "a module's own setting": (
        lambda: around(Forward(dropping_more_and_more, drop=nn.Dropout(0.0))),
        r"'1\.drop' \(Dropout\).*'p'",
    ),
    "a counter of the class": (lambda: around(CountedGlobally()), "a global variable.*register_buffer"),
    "NumPy's generator as attribute": (
        lambda: around(Forward(drawing, rng=np.random.default_rng(0))),
        r"'rng'.*torch\.rand",
    ),
    "torch's generator as attribute": (
        lambda: around(Forward(drawing_by_torch, rng=torch.Generator())),
        r"'rng'.*torch\.rand",
    ),
    "initial values of its own": (by_own_generator, "not initialised by its episode's seed: '0.weight'"),
    "random numbers in evaluation": (
        lambda: around(Forward(lambda self, x: F.dropout(x, 0.5))),
        r"in evaluation mode in its module '1' \(Forward\), from torch's.*self\.training",
    ),
    "Python's random numbers in evaluation": (
        lambda: around(Forward(lambda self, x: x * random.random())),
        "in evaluation mode.*from Python's",
    ),
    "a buffer that evaluation changes": (
        lambda: around(Forward(mean_in_evaluation, ["mean"])),
        r"its buffer '1\.mean' in evaluation mode",
    ),
    "a parameter that a pass changes": (
        lambda: around(Forward(clipping, layer=nn.Linear(8, 8))),
        r"its parameter '1\.layer\.weight' in its forward pass",
    ),
    "a parameter that a pass makes": (lambda: around(Forward(making, layer=None)), r"makes the parameter '1\.layer"),
    "a parameter in a list": (kept_in_a_list, r"'1\.layer\.weight' is kept in the attribute 'weights'"),
    "a weight kept between evaluations": (
        lambda: around(Forward(keeping_for_evaluation, layer=nn.Linear(8, 8), kept=None)),
        "in evaluation right after those of other weights.*'kept'",
    ),
    "sparse gradients": (
        lambda: around(
            Forward(lambda self, x: x + self.rows((x[:, 0] > 0).long()), rows=nn.Embedding(2, 8, sparse=True))
        ),
        r"sparse gradients of '1\.rows\.weight'.*sparse=False",
    ),
    "gradient checkpointing": (lambda: around(Forward(checkpointed, layer=nn.Linear(8, 8))), "checkpointing"),
    "weights merged by eval()": (lambda: around(Merging()), r"in evaluation.*'1' \(Merging\)"),
    "a gradient hook": (with_gradient_hook, "gradient hook on '0.weight'"),
    "a backward hook": (with_backward_hook, "backward hook on '1'"),
    "a lazy layer that becomes another": (
        lambda: nn.Sequential(LazyLoud(8), nn.Linear(8, CLASSES)),
        r"'0' \(LazyLoud\).*becomes Linear.*cls_to_become = None",
    ),
    "a complex weight": (complex_weight, "complex tensor 'phase'"),
    "scaled by frequency": (lambda: nn.Embedding(9, 3, scale_grad_by_freq=True), "second derivative .* is wrong"),
    "one network for all": (lambda: ONE, "the same module twice.*deepcopy"),
    "one part for all": (lambda: nn.Sequential(ONE, nn.Linear(3, 3)), r"'0' \(Sequential\) twice.*deepcopy"),
    "a tuple in training": (lambda: OnlyInTraining(INPUTS, 3), "returns tuple of Tensor, Tensor in training mode"),
    "a dictionary in evaluation": (lambda: OnlyInEvaluation(INPUTS, 3), "returns dict with keys 'out' in evaluation"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_trained_as_a_function_is_refused_by_name(kind):
    factory, message = REFUSED[kind]
    with pytest.raises(ValueError, match=f"the student .*{message}"):
        teachenv.TeachEnv(**SETTINGS | {"student": factory})


def test_a_network_of_known_operations_is_not_compared_with_central_differences(monkeypatch):
    monkeypatch.setattr("teachenv.students.contract.compare_derivatives", lambda *_: pytest.fail("it was compared"))
    teachenv.TeachEnv(**SETTINGS | {"student": lambda: around(NormAndActivation(8), nn.Dropout(0.5))})


def test_the_check_takes_as_many_backward_passes_however_many_buffers_there_are(monkeypatch):
    count, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: count.append(1) or grad(*args, **kwargs))
    needed = []
    for norms in (1, 12):
        count.clear()
        norm = [nn.BatchNorm1d(8) for _ in range(norms)]
        teachenv.TeachEnv(**SETTINGS | {"student": lambda norm=norm: around(*copy.deepcopy(norm))})
        needed.append(len(count))
    assert needed[0] == needed[1] > 0


# --- what a derivative leaves out -------------------------------------------------------------------------------------


def through_numpy(self, x):
    if self.training:
        self.mean.copy_(torch.from_numpy(x.detach().numpy().mean(0)))
    return x - self.mean


class Rounded(torch.autograd.Function):
    """With a straight-through gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, grad):
        return grad


def reversed_by_a_hook(self, x):
    if x.requires_grad:
        x.register_hook(lambda grad: -grad)
    return torch.tanh(x)


def doubled_in_place(self, x):
    x = x + 1
    with torch.no_grad():
        x.mul_(2)
    return x


LEFT_OUT = {
    "a buffer through NumPy": (through_numpy, r"its buffer '1\.mean'"),
    "outputs through a Python number": (lambda self, x: x / float(x.detach().norm()), "its outputs in training"),
    "outputs through a list": (lambda self, x: x * torch.tensor(x.tolist(), dtype=x.dtype), "its outputs in training"),
    "a straight-through function": (lambda self, x: x + Rounded.apply(x), "its outputs in training.*straight-through"),
    "a straight-through sample": (
        lambda self, x: F.gumbel_softmax(x, hard=True) if self.training else F.softmax(x, -1),
        "its outputs in training.*straight-through",
    ),
    "a sample without a path to its mean": (
        lambda self, x: torch.normal(x, 0.1) if self.training else x,
        "its outputs in training",
    ),
    "a hook that changes gradients": (reversed_by_a_hook, "its outputs in training"),
    "a change that autograd does not see": (doubled_in_place, "its outputs in training"),
}


@pytest.mark.parametrize(("does", "named"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_what_a_derivative_cannot_follow_is_said(does, named):
    env = teachenv.TeachEnv(**SETTINGS | {"student": lambda: around(Forward(does, ["mean"]))})
    with pytest.warns(UserWarning, match=f"the gradient is incomplete: .*{named}"):
        trained(ActionGradient(env), actions())


# --- pickles ----------------------------------------------------------------------------------------------------------


def averaged():
    return around(Averaged())


@pytest.mark.parametrize(
    "options",
    [
        *({"lr_schedule": kind} for kind in ("constant", "linear", "cosine", "step")),
        {"loss": "sample-weights"},
        {"student": FrozenNorm},
        {"student": hooked},
        {"student": Scaled},
        {"student": averaged},
    ],
)
def test_an_environment_can_be_pickled_and_goes_on_alike(options):
    env = teachenv.TeachEnv(**SETTINGS | {"student": "mlp"} | options)
    env.reset(seed=3)
    action = np.full(env.action_space.shape, 0.1)
    env.step(action)
    other = pickle.loads(pickle.dumps(env))
    assert other.dynamics.student.statistics == env.dynamics.student.statistics
    for _ in range(HORIZON - 1):
        one, two = env.step(action), other.step(action)
        assert one[4] == two[4]
    many = teachenv.TeachVectorEnv(num_envs=2, **SETTINGS | {"student": "mlp"} | options)
    many.reset(seed=0)
    assert pickle.loads(pickle.dumps(many)).students.step.tolist() == [0, 0]
