"""Attribution of a training of one's own is that of the plain PyTorch loop that it describes."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, IterableDataset, TensorDataset

import meta
from teachenv import TeachEnv

CLASSES, SAMPLES, STEPS, BATCH = 3, 30, 8, 5
RNG = np.random.default_rng(0)
Y = np.arange(SAMPLES + 4) % CLASSES
X = RNG.normal(size=(SAMPLES + 4, 5)) + 1.5 * RNG.normal(size=(CLASSES, 5))[Y]
POOL, TESTS = (X[:SAMPLES], Y[:SAMPLES]), (X[SAMPLES:], Y[SAMPLES:])
OPTIMIZERS = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.01}),
    (torch.optim.AdamW, {"lr": 0.02}),
    (torch.optim.RMSprop, {"lr": 0.01, "alpha": 0.9, "momentum": 0.5, "eps": 1e-6}),
]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, CLASSES))


def make(**changes) -> meta.OwnTraining:
    options = {"module": network, "data": POOL, "optimizer_kwargs": {"lr": 0.1}, "steps": STEPS, "batch_size": BATCH}
    return meta.OwnTraining(**({**options, "dtype": "float64"} | changes))


def plain_loop(own: meta.OwnTraining, weights: torch.Tensor, loss=F.cross_entropy) -> nn.Module:
    """The training as one writes it in PyTorch, on the minibatches and from the network of the training's seed."""
    env = own.environment()
    env.reset(seed=own.seed)
    module = own.module().double()
    module.load_state_dict(env.student.parameters | env.student.buffers)
    optimizer = own.optimizer(module.parameters(), **own.optimizer_kwargs)
    inputs, targets = env.task.pool
    for batch in env.episode.batches:
        optimizer.zero_grad()
        (weights[batch] * loss(module(inputs[batch]), targets[batch], reduction="none")).mean().backward()
        optimizer.step()
    return module.eval()


@pytest.mark.parametrize(("optimizer", "settings"), OPTIMIZERS, ids=lambda value: getattr(value, "__name__", ""))
def test_values_are_the_slopes_of_a_plain_pytorch_loop(optimizer, settings):
    own = make(optimizer=optimizer, optimizer_kwargs=settings, seed=4)
    scores = meta.attribute(own, TESTS)
    inputs, targets = torch.from_numpy(TESTS[0]), torch.from_numpy(TESTS[1])

    def losses(weights: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            outputs = plain_loop_under(weights)(inputs)
        return F.cross_entropy(outputs, targets, reduction="none").numpy()

    def plain_loop_under(weights: torch.Tensor) -> nn.Module:
        with torch.enable_grad():
            return plain_loop(own, weights)

    ones, step = torch.ones(SAMPLES, dtype=torch.float64), 1e-5
    np.testing.assert_allclose(scores.losses, losses(ones), rtol=1e-10)
    along = torch.from_numpy(np.random.default_rng(1).normal(size=SAMPLES))
    slopes = (losses(ones + step * along) - losses(ones - step * along)) / (2 * step)
    np.testing.assert_allclose(scores.values @ along.numpy(), slopes, rtol=1e-6, atol=1e-9)


def detached(outputs, targets, reduction="none"):
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return torch.exp(-losses.detach()) * losses


def bootstrapped(outputs, targets, reduction="none"):
    """Reed et al. 2015: half of the target is the network's own belief."""
    with torch.no_grad():
        beliefs = outputs.softmax(1)
    return -((F.one_hot(targets, CLASSES) + beliefs) / 2 * outputs.log_softmax(1)).sum(1)


def adversarial(outputs, targets, reduction="none"):
    """Of outputs moved along a gradient that is taken in the loss, and constant to the loss's own."""
    moved = outputs.detach().requires_grad_()
    with torch.enable_grad():
        (slope,) = torch.autograd.grad(F.cross_entropy(moved, targets, reduction="sum"), moved)
    return F.cross_entropy(outputs + slope / slope.norm(dim=1, keepdim=True), targets, reduction="none")


@pytest.mark.parametrize("loss", [detached, bootstrapped, adversarial])
def test_values_go_through_what_a_loss_of_ones_own_detaches(loss):
    own = make(loss=loss, optimizer_kwargs={"lr": 0.3, "momentum": 0.5})
    along = torch.from_numpy(np.random.default_rng(1).normal(size=SAMPLES))

    def losses(by: float) -> np.ndarray:
        outputs = plain_loop(own, 1 + by * along, loss)(torch.from_numpy(TESTS[0]))
        return loss(outputs, torch.from_numpy(TESTS[1])).detach().numpy()  # which tests measure, too

    slopes = (losses(1e-5) - losses(-1e-5)) / 2e-5
    for memory in ("all", "states"):
        scores = meta.attribute(own, TESTS, memory=memory)
        np.testing.assert_allclose(scores.losses, losses(0.0), rtol=1e-10)
        np.testing.assert_allclose(scores.values @ along.numpy(), slopes, rtol=1e-6, atol=1e-9)


def test_a_loss_whose_gradient_is_no_derivative_is_warned_of():
    def hooked(outputs, targets):
        if outputs.requires_grad:
            outputs.register_hook(lambda gradient: 2 * gradient)
        return F.cross_entropy(outputs, targets, reduction="none")

    with pytest.warns(UserWarning, match="is incomplete: the loss OwnLoss"):
        meta.attribute(make(loss=hooked), TESTS)


def by_numpy(outputs, targets):
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return losses.clamp(max=float(np.median(losses.detach().numpy())))


def by_float(outputs, targets):
    leaf = outputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(leaf, targets), leaf)
    return F.cross_entropy(outputs + gradient / float(gradient.norm()), targets, reduction="none")


@pytest.mark.parametrize("loss", [by_numpy, by_float])
def test_a_loss_that_reads_numbers_of_what_it_computes_is_warned_of(loss):
    own = make(loss=loss)
    with pytest.warns(UserWarning, match="is incomplete: the loss OwnLoss"):
        meta.attribute(own, TESTS, objective=F.cross_entropy)


@pytest.mark.filterwarnings("error")
def test_a_loss_in_single_precision_is_not_warned_of():
    meta.attribute(make(loss=lambda z, y: F.cross_entropy(z.float(), y, reduction="none").double()), TESTS)
    meta.attribute(make(loss=lambda z, y: F.cross_entropy(z.float(), y, reduction="none"), dtype="float32"), TESTS)


def test_a_loss_that_reads_a_network_of_its_own_is_warned_of():
    made = []

    def remembered() -> nn.Module:
        made.append(network())
        return made[-1]

    def penalised(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none") + sum(
            p.square().sum() for p in made[-1].parameters()
        )

    with pytest.warns(UserWarning, match=r"the loss OwnLoss reads 5 tensor\(s\) with requires_grad=True"):
        make(module=remembered, loss=penalised).environment()


class Frozen(nn.BatchNorm1d):
    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.train()

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)


def test_a_part_that_stays_in_evaluation_mode_is_frozen():
    own = make(module=lambda: nn.Sequential(nn.Linear(5, 6, bias=False), Frozen(6), nn.Tanh(), nn.Linear(6, CLASSES)))
    scores = meta.attribute(own, TESTS)
    module = plain_loop(own, torch.ones(SAMPLES, dtype=torch.float64))
    assert not module[1].running_mean.any()
    losses = F.cross_entropy(module(torch.from_numpy(TESTS[0])), torch.from_numpy(TESTS[1]), reduction="none")
    np.testing.assert_allclose(scores.losses, losses.detach(), rtol=1e-10)


def test_a_test_alone_is_not_normalised_by_itself():
    def untracked() -> nn.Module:
        norm = nn.BatchNorm1d(6, track_running_stats=False)
        return nn.Sequential(nn.Linear(5, 6), norm, nn.Tanh(), nn.Linear(6, CLASSES))

    with pytest.raises(ValueError, match=r"batch norm of one value per channel.*track_running_stats=True"):
        meta.attribute(make(module=untracked), TESTS)


@pytest.mark.parametrize(
    ("pool", "tests", "message"),
    [
        (np.uint8, np.float64, "go from 0 to 25[0-9], and those of the pool are uint8.*divide them by 255"),
        (np.float64, np.uint8, "are uint8, pixels from 0 to 255, and those of the pool torch.float64"),
    ],
)
def test_pixels_are_not_taken_beside_other_numbers(pool, tests, message):
    pixels = np.random.default_rng(0).integers(0, 256, size=(SAMPLES + 4, 5))
    pixels[-1, 0] = 0
    pixels[-1, 1] = 250
    own = make(data=(pixels[:SAMPLES].astype(pool), POOL[1]))
    with pytest.raises(ValueError, match=message):
        meta.attribute(own, (pixels[SAMPLES:].astype(tests), TESTS[1]))


def test_both_doors_lead_to_the_same_values():
    own = make(optimizer_kwargs={"lr": 0.1, "momentum": 0.9})
    env = TeachEnv(
        task=own.environment().task,
        student=network,
        loss="data-weights",
        horizon=STEPS,
        steps_per_action=STEPS,
        batch_size=BATCH,
        train_on="pool",
        dev_size=1,
        dtype="float64",
    )
    for seeds in ([0], [3, 5]):
        through = meta.attribute(own, TESTS, seeds=seeds), meta.attribute(env, TESTS, seeds=seeds)
        assert np.array_equal(through[0].values, through[1].values)
    assert np.array_equal(meta.attribute(own, TESTS).values, meta.attribute(env, TESTS, seeds=[0]).values)


class Frame:
    """What NumPy makes an array of, as a data frame is."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.array


def test_data_of_every_form_is_the_same_training():
    inputs, labels = torch.from_numpy(POOL[0]), torch.from_numpy(POOL[1])
    expected = meta.attribute(make(), TESTS).values
    for data in (
        (inputs, labels),
        (Frame(POOL[0]), Frame(POOL[1])),
        TensorDataset(inputs, labels),
        (inputs, labels[:, None]),
    ):
        assert np.array_equal(meta.attribute(make(data=data), TESTS).values, expected)


def test_labels_may_be_texts():
    names = np.array(["ape", "bee", "cow"])
    own = make(data=(POOL[0], names[POOL[1]].tolist()))
    assert own.classes == ("ape", "bee", "cow")
    expected = meta.attribute(make(), TESTS).values
    assert np.array_equal(meta.attribute(own, (TESTS[0], names[TESTS[1]].astype(object))).values, expected)
    assert np.array_equal(meta.attribute(own, TESTS).values, expected)
    with pytest.raises(ValueError, match=r"tests: unknown label 'dog', expected one of \['ape', 'bee', 'cow'\]"):
        meta.attribute(own, (TESTS[0][:2], ["ape", "dog"]))


def test_a_loss_of_ones_own_and_the_named_one_agree():
    own = meta.attribute(make(loss=lambda z, y: F.cross_entropy(z, y, reduction="none")), TESTS)
    np.testing.assert_allclose(own.values, meta.attribute(make(), TESTS).values, rtol=1e-9, atol=1e-13)


def test_a_regression_is_measured_by_its_squared_error():
    heights = (POOL[0] @ np.arange(5.0), TESTS[0] @ np.arange(5.0))
    own = make(
        module=lambda: nn.Linear(5, 1), data=(POOL[0], heights[0]), loss="squared-error", optimizer_kwargs={"lr": 0.01}
    )
    scores = meta.attribute(own, (TESTS[0], heights[1]))

    def squared_error(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        return F.mse_loss(outputs[:, 0], targets, reduction=reduction)

    module = plain_loop(own, torch.ones(SAMPLES, dtype=torch.float64), squared_error)
    errors = module(torch.from_numpy(TESTS[0])).detach().numpy()[:, 0] - heights[1]
    np.testing.assert_allclose(scores.losses, errors**2, rtol=1e-10)
    by_function = meta.attribute(
        make(module=own.module, data=own.data, loss=lambda z, y: (z[:, 0] - y) ** 2, optimizer_kwargs={"lr": 0.01}),
        (TESTS[0], heights[1]),
    )
    np.testing.assert_allclose(by_function.values, scores.values, rtol=1e-9)


@pytest.mark.parametrize("together", [False, True])
def test_a_loss_of_ones_own_is_what_tests_measure(together):
    """A network with one output and the binary cross-entropy: the squared error of a logit would say nothing."""

    def loss(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(z[:, 0], y, reduction="none")

    rare, of_tests = (POOL[1] == 0).astype(float), (TESTS[0], (TESTS[1] == 0).astype(float))
    own = make(module=lambda: nn.Linear(5, 1), data=(POOL[0], rare), loss=loss)
    scores = meta.attribute(own, of_tests, together=together)
    asked = meta.attribute(own, of_tests, together=together, objective=lambda z, y: loss(z, y).mean())
    np.testing.assert_allclose(scores.values, asked.values, rtol=1e-9, atol=1e-13)
    logits = plain_loop(own, torch.ones(SAMPLES).double(), lambda z, y, reduction: loss(z, y))(
        torch.from_numpy(TESTS[0])
    )
    expected = loss(logits, torch.from_numpy(of_tests[1])).detach().numpy()
    np.testing.assert_allclose(scores.losses, [expected.mean()] if together else expected, rtol=1e-9)
    assert make().objective is None  # labels under a named loss: the cross-entropy, as ever


@pytest.mark.parametrize(("loss", "kind"), [("cross-entropy", "labels"), ("squared-error", "numbers")])
def test_whole_floating_point_targets_are_what_the_loss_reads(loss, kind):
    own = make(
        data=(POOL[0], (POOL[1] == 0).astype(float)),
        loss=loss,
        module=lambda: nn.Linear(5, 2 if kind == "labels" else 1),
    )
    assert own.environment().task.target_kind == kind


def convolutional() -> nn.Module:
    layers = nn.Conv1d(1, 4, 2), nn.BatchNorm1d(4), nn.GELU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, CLASSES)
    return nn.Sequential(nn.Unflatten(1, (1, 5)), *layers)


def attending() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Unflatten(1, (5, 1)), nn.Linear(1, 4), layer, nn.Flatten(), nn.Linear(20, CLASSES))


@pytest.mark.parametrize("module", [convolutional, attending])
def test_tests_of_any_network_share_a_walk_and_have_the_values_of_each_alone(module):
    own = make(module=module, steps=4)
    scores = meta.attribute(own, TESTS)
    assert scores.walks == 1
    for i in (0, 3):
        alone = meta.attribute(own, (TESTS[0][i : i + 1], TESTS[1][i : i + 1]))
        np.testing.assert_allclose(scores.values[i], alone.values[0], rtol=1e-9, atol=1e-13)


class Restless(Dataset):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.rand(5), i % CLASSES


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.rand(5), 0


class Unpaired(Restless):
    def __getitem__(self, i: int) -> torch.Tensor:
        return torch.zeros(5)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": (POOL[0], np.full(SAMPLES, 2))}, ValueError, "all 30 samples of the data have the label 2"),
        ({"data": POOL[0]}, TypeError, "found a ndarray; give its inputs and its targets apart"),
        ({"data": (POOL[0].astype(int), POOL[1])}, ValueError, "fails on inputs .* give features as floats"),
        ({"data": (POOL[0].astype("U3"), POOL[1])}, TypeError, "data: inputs are of dtype <U3; expected numbers"),
        ({"data": (["a tree", "a cat"] * (SAMPLES // 2), POOL[1])}, TypeError, r"Tfidf.*toarray\(\).*np.unique"),
        ({"data": (csr_array(POOL[0]), POOL[1])}, TypeError, r"inputs are a sparse matrix.*call toarray\(\)"),
        ({"data": (POOL[0] * np.nan, POOL[1])}, ValueError, "data: inputs contain NaN or infinity"),
        ({"data": (POOL[0], POOL[1][:4])}, ValueError, "must have the same number of samples"),
        ({"data": Restless()}, ValueError, "answers differently each time: its sample 0"),
        ({"data": Endless()}, TypeError, "a Dataset with a length .* found an? Endless"),
        ({"data": Unpaired()}, TypeError, r"expected a pair \(input, label\)"),
        ({"data": 3}, TypeError, "found 3; give its samples as arrays"),
        ({"loss": "hing"}, ValueError, "hinge"),
        ({"loss": 3}, TypeError, "loss must be a name or a function, found 3"),
        ({"loss": lambda z, y: F.cross_entropy(z, y)}, ValueError, "one number for each of 5 samples"),
        ({"optimizer": torch.optim.Adagrad}, TypeError, "one of the classes torch.optim.SGD"),
        ({"optimizer_kwargs": {"lr": 0.1, "maximize": True}}, ValueError, "found maximize=True"),
        ({"optimizer_kwargs": {"lr": 0.1, "momentum": 0.9, "dampening": 0.1}}, ValueError, "found dampening=0.1"),
        ({"optimizer": torch.optim.Adam, "optimizer_kwargs": {"amsgrad": True}}, ValueError, "found amsgrad=True"),
        ({"optimizer": torch.optim.RMSprop, "optimizer_kwargs": {"centered": True}}, ValueError, "found centered=True"),
        ({"optimizer_kwargs": {"learning_rate": 0.1}}, ValueError, "PyTorch does not take"),
        ({"batch_size": 31}, ValueError, "batch_size=31 is larger"),
        ({"batch_size": "8"}, ValueError, "batch_size must be"),
        ({"steps": 0}, ValueError, "steps must be"),
        ({"data": (POOL[0][:, 0], POOL[1])}, ValueError, r"fails on .* reshape the inputs to \(n, 1\)"),
        ({"data": (POOL[0][:0], POOL[1][:0])}, ValueError, "data: no samples; expected at least one"),
        ({"device": "cuda:99"}, ValueError, "device 'cuda:99' cannot be used here, expected one that this machine has"),
        ({"device": 3}, ValueError, "device 3 cannot be used here"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"dtype": "float16"}, ValueError, "dtype"),
        ({"module": network()}, ValueError, "a function that builds a fresh"),
        ({"module": lambda: nn.Linear(4, CLASSES)}, ValueError, "fails on inputs of shape"),
        (
            {"module": lambda: nn.Linear(5, 2)},
            ValueError,
            "labels of the data go from 0 to 2, but the network has 2 outputs",
        ),
        ({"data": (POOL[0], POOL[1] + 1)}, ValueError, "go from 1 to 3, .*: number the classes from 0"),
        ({"module": lambda: nn.Sequential(nn.Linear(5, 1), nn.Flatten(0))}, ValueError, "leave out squeeze"),
    ],
)
def test_what_cannot_be_taken_is_said(changes, error, message):
    with pytest.raises(error, match=message):
        make(**changes).environment()


HEIGHTS = POOL[0] @ np.arange(5.0)


def regression(loss, targets=HEIGHTS, **options):
    return make(module=lambda: nn.Linear(5, 1), data=(POOL[0], targets), loss=loss, **options)


@pytest.mark.parametrize("all_with_all", [lambda z, y: (z - y).square().mean(1), lambda z, y: (z - y).abs().mean(0)])
def test_a_loss_that_compares_all_outputs_with_all_targets_is_refused(all_with_all):
    """(n, 1) against (n,) is (n, n) in PyTorch, without a word."""
    with pytest.raises(ValueError, match=r"the loss compares .* shape \(5, 1\) and targets \(5,\); .* outputs\[:, 0\]"):
        regression(all_with_all).environment()
    regression(lambda z, y: (z - y).square().mean(1), HEIGHTS[:, None]).environment()
    own = regression(lambda z, y: (z[:, 0] - y).square(), optimizer_kwargs={"lr": 0.01})
    tests = TESTS[0], TESTS[0] @ np.arange(5.0)
    with pytest.raises(ValueError, match=r"the objective of tests compares .* \(4, 1\) and targets \(4,\)"):
        meta.attribute(own, tests, objective=lambda z, y: (z - y).square().mean(), together=True)
    each = meta.attribute(own, tests, objective=lambda z, y: (z - y).square().mean())  # one test at a time
    named = meta.attribute(own, tests, objective=lambda z, y: (z[:, 0] - y).square().mean(), together=True)
    np.testing.assert_allclose(each.values.mean(0), named.values[0], rtol=1e-9, atol=1e-12)


class Reader(nn.Module):
    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.by_name, self.body, self.age = by_name, nn.Linear(4, CLASSES), nn.Linear(1, CLASSES)

    def forward(self, x=None, marks=None, age=None):
        if not self.by_name:
            x, marks, age = x[:, :4], x[:, 4:8] != 0, x[:, 8]
        return self.body(x * marks) + self.age(age[:, None])


def named(x):
    return {"x": x[:, :4], "marks": x[:, :4] > 0, "age": x[:, 4]}


def test_inputs_by_name_have_the_values_of_one_tensor():
    """Of tests in one walk, and of labels that are texts."""
    names = np.array(["ape", "bee", "cow"])
    own = make(module=lambda: Reader(True), data=(named(POOL[0]), names[POOL[1]]))
    found = meta.attribute(own, (named(TESTS[0]), names[TESTS[1]]))
    flat = [np.concatenate([x[:, :4], x[:, :4] > 0, x[:, 4:]], 1) for x in (POOL[0], TESTS[0])]
    expected = meta.attribute(make(module=lambda: Reader(False), data=(flat[0], POOL[1])), (flat[1], TESTS[1]))
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-12, atol=1e-15)
    with pytest.raises(ValueError, match="tests: inputs have the keys 'x', 'age', expected 'x', 'marks', 'age'"):
        meta.attribute(own, ({"x": TESTS[0][:, :4], "age": TESTS[0][:, 4]}, TESTS[1]))


def test_texts_with_numbers_among_them_are_refused():
    with pytest.raises(TypeError, match="targets are of dtype object"):
        make(data=(POOL[0], np.array(["ape", 1] * 15, dtype=object)))
