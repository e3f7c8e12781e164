"""A training loop of one's own: its gradients are the slopes of the plain PyTorch loop, and what cannot be is named."""

import copy
import gc
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import meta
from teachenv.randomness import Purpose, all_seeded

STEPS, BATCH = 6, 4
RNG = torch.Generator().manual_seed(0)
X, X_DEV = (torch.randn(n, 5, generator=RNG, dtype=torch.float64) for n in (STEPS * BATCH, 10))
Y, Y_DEV = (torch.randint(3, (n,), generator=RNG) for n in (STEPS * BATCH, 10))
WEIGHTS = torch.rand(len(X), generator=RNG, dtype=torch.float64) + 0.5
BATCHES = list(torch.arange(len(X)).split(BATCH))


def network() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 3)
    return nn.Sequential(*layers).double()


def loss(model: nn.Module, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights[rows] * F.cross_entropy(model(X[rows]), Y[rows], reduction="none")).mean()


def objective(model: nn.Module) -> torch.Tensor:
    model.eval()
    return F.cross_entropy(model(X_DEV), Y_DEV)


def sgd_of_two_groups(model: nn.Module) -> torch.optim.Optimizer:
    # In another order than the model's, as where biases and norms have a group without weight decay.
    groups = [
        {"params": [*model[4].parameters(), model[1].bias]},
        {"params": [*model[0].parameters(), model[1].weight], "lr": 0.1},
    ]
    return torch.optim.SGD(groups, lr=0.3, momentum=0.9, weight_decay=0.01, nesterov=True)


def one_cycle(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def cosine(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)


OPTIMIZERS = {
    "sgd": (sgd_of_two_groups, cosine),
    "one-cycle": (one_cycle, lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=STEPS + 1)),
    "adam": (lambda m: torch.optim.Adam(m.parameters(), lr=0.02, weight_decay=0.1, foreach=True), cosine),
    "adamw": (lambda m: torch.optim.AdamW(m.parameters(), lr=0.02), lambda o: None),
    "rmsprop": (lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, momentum=0.5, eps=1e-3), cosine),
}
TORCH_NAMES = {"learning_rate": "lr", "momentum": "momentum", "weight_decay": "weight_decay"}


def plain_loop(kind: str, weights=WEIGHTS, first=None, **moved: torch.Tensor) -> float:
    """J of the loop as it is written in PyTorch, with settings of its steps, (steps, groups), moved by something."""
    make, schedule = OPTIMIZERS[kind]
    model = network()
    if first is not None:
        model.load_state_dict(model.state_dict() | first)
    optimizer = make(model)
    scheduler = schedule(optimizer)
    for step, rows in enumerate(BATCHES):
        before = [dict(group) for group in optimizer.param_groups]
        for name, by in moved.items():
            for group, of_group in zip(optimizer.param_groups, by[step], strict=True):
                group[TORCH_NAMES[name]] += float(of_group)
        optimizer.zero_grad()
        with all_seeded(0, Purpose.DROPOUT, step):
            loss(model, rows, weights).backward()
        optimizer.step()
        for group, settings in zip(optimizer.param_groups, before, strict=True):
            group.update({name: settings[name] for name in TORCH_NAMES.values() if name in settings})
        if scheduler is not None:
            scheduler.step()
    return float(objective(model).detach())


def slope(function, at: torch.Tensor, along: torch.Tensor, step: float = 1e-5) -> float:
    return (function(at + step * along) - function(at - step * along)) / (2 * step)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_gradients_are_the_slopes_of_the_plain_loop(kind):
    make, schedule = OPTIMIZERS[kind]
    model = network()
    before, optimizer = copy.deepcopy(model.state_dict()), make(model)
    settings = ("learning_rate", "weight_decay") + (() if "adam" in kind else ("momentum",))
    training = meta.Training.of(
        model, optimizer, BATCHES, loss, objective,
        scheduler=schedule(optimizer), hyperparameters={"weights": WEIGHTS}, settings=settings,
    )  # fmt: skip
    gradient = training.gradient()
    assert float(gradient.objective) == plain_loop(kind)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training

    rng = torch.Generator().manual_seed(2)
    along = torch.randn(len(X), generator=rng, dtype=torch.float64)
    found = float(gradient.hyperparameters["weights"] @ along)
    assert found == pytest.approx(slope(lambda w: plain_loop(kind, w), WEIGHTS, along), rel=1e-6, abs=1e-9)
    for name in settings:
        along = torch.randn(STEPS, len(optimizer.param_groups), generator=rng, dtype=torch.float64)
        wanted = slope(lambda by, name=name: plain_loop(kind, **{name: by}), torch.zeros_like(along), along, 1e-6)
        assert float((gradient.settings[name] * along).sum()) == pytest.approx(wanted, rel=1e-6, abs=1e-8)
    weight = before["4.weight"]
    along = torch.randn(weight.shape, generator=rng, dtype=torch.float64)
    wanted = slope(lambda w: plain_loop(kind, first={"4.weight": w}), weight, along)
    assert float((gradient.initial["4.weight"] * along).sum()) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("options", [{"memory": "all"}, {"memory": 2}, {"method": "finite-difference"}], ids=str)
def test_every_way_to_the_gradient_gives_it(options):
    def training() -> meta.Loop:
        model = network()
        made = {"hyperparameters": {"weights": WEIGHTS}}
        return meta.Training.of(model, sgd_of_two_groups(model), BATCHES, loss, objective, **made)

    gradient, other = training().gradient(memory="states"), training().gradient(**options)
    for one, two in ((gradient.hyperparameters, other.hyperparameters), (gradient.settings, other.settings)):
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=1e-5, atol=1e-8)


def test_forward_mode_is_reverse_mode():
    model = nn.Sequential(nn.Linear(5, 2), nn.Tanh(), nn.Linear(2, 3)).double()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    weights = WEIGHTS[:8].clone()
    training = meta.Training.of(model, optimizer, BATCHES[:2], loss, objective, hyperparameters={"weights": weights})
    reverse, forward = training.gradient(), training.gradient(method="forward")
    torch.testing.assert_close(forward.settings, reverse.settings, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(forward.hyperparameters, reverse.hyperparameters, rtol=1e-8, atol=1e-12)
    assert not forward.initial


def test_only_the_initial_parameters_may_be_asked_for():
    model = network()
    batches = [(X[rows], Y[rows]) for rows in BATCHES]
    training = meta.Training.of(
        model, one_cycle(model), batches, lambda m, b: F.cross_entropy(m(b[0]), b[1]), objective, settings=()
    )
    gradient = training.gradient()
    assert not gradient.settings
    assert not gradient.hyperparameters
    assert gradient.initial.keys() == dict(model.named_parameters()).keys()


def test_a_transformers_model_is_fine_tuned_through_its_own_loss():
    transformers = pytest.importorskip("transformers")
    configuration = transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(configuration).double()
    tokens = torch.randint(20, (6, 5), generator=RNG)
    batches = [{"input_ids": rows, "labels": rows[:, 0] % 2} for rows in tokens.split(2)]
    # Biases of keys have no effect on attention, and a gradient that is rounding alone.
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-4)
    dev = {"input_ids": tokens, "labels": tokens[:, 1] % 2}

    def run(rate: float) -> float:
        tuned = copy.deepcopy(model)
        its_optimizer = torch.optim.AdamW(tuned.parameters(), lr=rate, eps=1e-4)
        for step, batch in enumerate(batches):
            its_optimizer.zero_grad()
            with all_seeded(0, Purpose.DROPOUT, step):
                tuned(**batch).loss.backward()
            its_optimizer.step()
        return tuned.eval()(**dev).loss.item()

    training = meta.Training.of(
        model.train(), optimizer, batches, lambda m, batch: m(**batch).loss, lambda m: m.eval()(**dev).loss
    )
    found = float(training.gradient().settings["learning_rate"].sum())
    assert found == pytest.approx((run(1e-2 + 1e-6) - run(1e-2 - 1e-6)) / 2e-6, rel=1e-4)


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


def noisy(model: nn.Module) -> nn.Module:
    return nn.Sequential(model, OwnNoise())


def writing(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch.mul_(0.5)).mean()


def sometimes(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    calls = getattr(model, "calls", 0)
    model.calls = calls + 1
    return model(batch).mean() * (1 + calls)


class Recomputed(nn.Module):
    """A layer whose activations are not kept for the backward pass, but computed again in it."""

    def __init__(self, layer: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.layer, self.reentrant = layer, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(lambda x: torch.tanh(self.layer(x)), x, use_reentrant=self.reentrant)


def recomputing(reentrant: bool):
    return lambda model: nn.Sequential(nn.Linear(5, 5), Recomputed(nn.Linear(5, 5), reentrant), model).double()


def refilled():
    batch = torch.empty(4, 5, dtype=torch.float64)
    for rows in X.split(4):
        yield batch.copy_(rows)


class ChangesMore(torch.optim.lr_scheduler.LRScheduler):
    """A scheduler that changes what has no derivative."""

    def get_lr(self):
        for group in self.optimizer.param_groups:
            group["nesterov"] = self.last_epoch > 0
        return [0.1 for _ in self.optimizer.param_groups]


def with_momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def looked_up(**options):
    return lambda model: nn.Sequential(nn.Embedding(9, 5, **options), model).double()


WORDS = {"batches": [torch.arange(4)]}


def momentum_comes_late(optimizer):
    return torch.optim.lr_scheduler.CyclicLR(optimizer, 0.1, 0.2, 2, base_momentum=0.9, max_momentum=0.0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batches": []}, ValueError, "found no batches"),
        ({"model": noisy}, RuntimeError, r"first to differ is the module '1' \(OwnNoise\)"),
        ({"loss": writing, "batches": [X[:4].clone()]}, RuntimeError, "writes into its batch"),
        ({"loss": sometimes}, RuntimeError, "first to differ is the loss itself"),
        ({"loss": lambda m, b: m(b)}, ValueError, r"loss must be one number, a tensor; found a tensor of shape \(4, 3"),
        ({"loss": lambda m, b: m(b).detach().mean()}, ValueError, "no derivative with respect to any parameter"),
        ({"optimizer": lambda m: torch.optim.Adagrad(m.parameters())}, TypeError, "class Adagrad.*SGD, Adam, AdamW"),
        ({"optimizer": lambda m: torch.optim.SGD(network().parameters())}, ValueError, "is not of the model"),
        ({"optimizer": lambda m: torch.optim.SGD(m.parameters(), maximize=True)}, ValueError, "maximize=True"),
        ({"hyperparameters": {"w": 3}}, TypeError, r"hyperparameters\['w'\] must be a tensor"),
        ({"settings": ("lr",)}, ValueError, "unknown setting 'lr'"),
        ({"settings": ("momentum",)}, ValueError, "the optimizer has none"),
        ({"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau}, TypeError, "ReduceLROnPlateau"),
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 2, "batches": iter([X])}, ValueError, "list_iterator of batches, which can be read once"),
        ({**WORDS, "model": looked_up(max_norm=0.1)}, RuntimeError, "writes into the parameter '0.weight'"),
        ({**WORDS, "model": looked_up(sparse=True)}, ValueError, "sparse gradient of '0.weight'"),
        ({**WORDS, "model": looked_up(scale_grad_by_freq=True)}, ValueError, "scale_grad_by_freq=True in '0'"),
        ({"scheduler": momentum_comes_late}, ValueError, "sets momentum to 0 at step 0 and to more later"),
        ({"scheduler": ChangesMore, "optimizer": with_momentum}, ValueError, "changes nesterov in step 0"),
        ({"scheduler_every": 2}, ValueError, "found scheduler_every=2 without a scheduler"),
        ({"settings": ("learning_rate", "learning_rate")}, ValueError, "expected each once"),
        ({"batches": refilled()}, ValueError, "batch 0 was written into when a later one was read"),
        ({"model": recomputing(False)}, ValueError, "again in its backward pass"),
        ({"model": recomputing(True)}, ValueError, "again in its backward pass"),
        ({"model": recomputing(False), "adjoint": "blockwise"}, ValueError, "again in its backward pass"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_said(changes, error, message):
    model = changes.pop("model", lambda m: m)(nn.Sequential(nn.Linear(5, 3)).double())
    optimizer = changes.pop("optimizer", lambda m: torch.optim.SGD(m.parameters(), lr=0.1))(model)
    if "scheduler" in changes:
        changes["scheduler"] = changes["scheduler"](optimizer)
    given = {"batches": [X[:4], X[4:8]], "loss": lambda m, b: m(b).mean(), "objective": lambda m: m(X).mean()} | changes
    with pytest.raises(error, match=message):
        meta.Training.of(model, optimizer, given.pop("batches"), given.pop("loss"), given.pop("objective"), **given)


def test_an_optimizer_that_has_stepped_and_a_parameter_that_comes_later_are_refused():
    model = nn.ModuleList([nn.Linear(5, 1), nn.Linear(5, 1)]).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def of_one(model: nn.ModuleList, which: tuple[int, ...]) -> torch.Tensor:
        return torch.stack([model[i](X).square().mean() for i in which]).sum()

    for first, second, message in (
        ((0,), (0, 1), "depends on '1.weight', and that of step 0 did not"),
        ((0, 1), (0,), "does not depend on '1.weight', and that of step 0 did"),
    ):
        training = meta.Training.of(model, optimizer, [first, second], of_one, lambda m: m[0](X).mean())
        with pytest.raises(RuntimeError, match=message):
            training.gradient()
    assert meta.Training.of(model, optimizer, [(0,), (0,)], of_one, lambda m: m[0](X).mean()).gradient().initial
    model[0](X).mean().backward()
    optimizer.step()
    with pytest.raises(ValueError, match="has taken steps already"):
        meta.Training.of(model, optimizer, [(0,)], of_one, lambda m: m[0](X).mean())


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW], ids=lambda make: make.__name__)
def test_single_numbers_stay_in_their_type_and_a_tensor_of_a_rate_as_it_is(make):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.factor = nn.Linear(5, 3), nn.Parameter(torch.tensor(1.3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.float()) * self.factor

    model, rate = Scaled(), torch.tensor(0.1)
    optimizer = make(model.parameters(), lr=rate, weight_decay=0.01)
    training = meta.Training.of(
        model, optimizer, BATCHES[:2], lambda m, rows: F.cross_entropy(m(X[rows]), Y[rows]), objective,
        scheduler=torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
    )  # fmt: skip
    gradient = training.gradient()
    assert gradient.initial["factor"].dtype == torch.float32
    by_differences = training.gradient(method="finite-difference").initial["factor"]
    torch.testing.assert_close(by_differences, gradient.initial["factor"], rtol=0.01, atol=1e-4)
    assert float(rate) == pytest.approx(0.1)


def test_differences_are_not_taken_where_the_loss_detaches_something():
    def detaching(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        outputs = model(X[rows])
        return F.cross_entropy(outputs / outputs.detach().norm(), Y[rows])

    def gradient(method: str) -> torch.Tensor:
        model = nn.Sequential(nn.Linear(5, 3)).double()
        with torch.no_grad():
            model[0].weight.copy_(torch.arange(15.0).view(3, 5).sin())
            model[0].bias.zero_()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        training = meta.Training.of(model, optimizer, BATCHES, detaching, objective)
        return training.gradient(method=method).settings["learning_rate"]

    torch.testing.assert_close(gradient("finite-difference"), gradient("rmd"), rtol=1e-6, atol=1e-12)


def adversarial_by_grad(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(model(x), y), x)[0]


def adversarial_by_backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone()
    x.requires_grad = True
    F.cross_entropy(model(x), y).backward()
    return x.grad.data


def adversarial_by_chosen_inputs(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    for _ in range(2):  # they add up
        F.cross_entropy(model(x), y).backward(inputs=[x])
    return x.grad.clone()


def adversarial_hidden(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The gradient of an activation that is detached, so that it is a leaf in the plain loop."""
    hidden = model[0](x).detach().requires_grad_()
    F.cross_entropy(model[1:](hidden), y).backward()
    with torch.no_grad():
        return 2 * hidden.grad


def adversarial_under_no_grad(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        loss = F.cross_entropy(model(x), y)
    with torch.no_grad():
        return torch.autograd.grad(loss, x)[0]


def adversarial_by_hook(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    x = x.clone().requires_grad_()
    x.register_hook(seen.append)
    F.cross_entropy(model(x), y).backward()
    return seen[0]


def adversarial_by_hook_that_detaches(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    x = x.clone().requires_grad_()
    x.register_hook(lambda gradient: seen.append(gradient.detach().clone()))
    torch.autograd.backward([F.cross_entropy(model(x), y)], inputs=[x])
    return seen[0]


def adversarial_by_backward_of_all(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    torch.autograd.backward(F.cross_entropy(model(x), y))
    return x.grad


def adversarial_retained(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    hidden = model[0](x)
    hidden.retain_grad()
    F.cross_entropy(model[1:](hidden), y).backward()
    return hidden.grad.detach()


def adversarial_in_steps(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Clears its gradient between steps in each way that is in use."""
    by, total = torch.zeros_like(x).requires_grad_(), 0
    for clear in (lambda: by.grad.data.zero_(), lambda: by.grad.zero_(), lambda: delattr(by, "grad"), lambda: None):
        F.cross_entropy(model(x + by), y).backward()
        total = total + by.grad.clone()
        clear()
    return total


def adversarial_in_frequencies(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    waves = torch.fft.fft(x).requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(torch.fft.ifft(waves).real), y), waves)
    return torch.fft.ifft(slope).real


def sharpness_aware(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Of the parameters' gradients one is the direction, spread over the inputs (Foret et al. 2021 move parameters)."""
    slopes = torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters()))
    return x * slopes[0].norm() + slopes[0].mean(0)


def sharpness_aware_by_backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()
    slope = model[0].weight.grad.clone()
    model.zero_grad()
    return x * slope.norm() + slope.mean(0)


def small() -> tuple[nn.Module, torch.optim.Optimizer]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    return model, torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def slope_of_plain_loop(function: Callable, at: torch.Tensor, along: torch.Tensor) -> float:
    """The slope of the objective after a plain loop over a loss (model, batch, hyperparameter)."""

    def plain(hyperparameter: torch.Tensor) -> float:
        model, optimizer = small()
        for rows in BATCHES:
            loss = function(model, rows, hyperparameter)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return float(objective(model).detach())

    return slope(plain, at, along)


@pytest.mark.parametrize(
    "slopes",
    [
        adversarial_by_grad,
        adversarial_by_backward,
        adversarial_by_chosen_inputs,
        adversarial_hidden,
        adversarial_under_no_grad,
        adversarial_by_hook,
        adversarial_by_hook_that_detaches,
        adversarial_by_backward_of_all,
        adversarial_retained,
        adversarial_in_steps,
        adversarial_in_frequencies,
        sharpness_aware,
        sharpness_aware_by_backward,
    ],
)
@pytest.mark.parametrize("method", ["rmd", "forward"])
def test_gradients_taken_inside_a_loss_are_followed(slopes, method):
    # Along one direction of the weights: forward mode takes a pass for each hyperparameter.
    along = torch.randn(len(X), generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def adversarial(model: nn.Module, rows: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        slope = slopes(model, X[rows], Y[rows])
        direction = slope / slope.norm(dim=1, keepdim=True)
        losses = F.cross_entropy(model(X[rows] + direction), Y[rows], reduction="none")
        return ((WEIGHTS + size * along)[rows] * losses).mean()

    size = torch.zeros((), dtype=torch.float64)
    with pytest.raises(ValueError, match=r"blockwise.* takes gradients itself .* leave it out"):
        meta.Training.of(*small(), BATCHES, adversarial, objective, hyperparameters={"size": size}, adjoint="blockwise")
    training = meta.Training.of(*small(), BATCHES, adversarial, objective, hyperparameters={"size": size})
    found = float(training.gradient(method=method).hyperparameters["size"])
    assert found == pytest.approx(slope_of_plain_loop(adversarial, size, torch.ones(())), rel=1e-6, abs=1e-9)


def data_set(x: torch.Tensor) -> None:
    x.data = x.data + x.grad


def changed_in_place(x: torch.Tensor) -> None:
    with torch.no_grad():
        x += x.grad


def drawn_in_data(x: torch.Tensor) -> None:
    x.data.uniform_(-0.1, 0.1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drawn_in_data, r"\.data or detach\(\) of a tensor with requires_grad=True changed in place"),
        (data_set, r"\.data of a tensor set to"),
        (changed_in_place, r"with requires_grad=True in place"),
    ],
)
def test_inputs_that_are_moved_where_no_derivative_follows_are_refused(change, message):
    def moved(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        x = X[rows].clone().requires_grad_()
        F.cross_entropy(model(x), Y[rows]).backward()
        change(x)
        return F.cross_entropy(model(x), Y[rows])

    model = nn.Sequential(nn.Linear(5, 3)).double()
    with pytest.raises(ValueError, match=message + r".*detach\(\)\.requires_grad_\(\)"):
        meta.Training.of(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), BATCHES, moved, objective)


def test_a_step_that_is_another_one_where_it_is_differentiated_is_refused():
    def watched(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        differentiated = torch.overrides._get_current_function_mode() is not None
        return F.cross_entropy(model(X[rows]), Y[rows]) * (2.0 if differentiated else 1.0)

    model = nn.Sequential(nn.Linear(5, 3)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with pytest.raises(RuntimeError, match=r"has two gradients: differentiated once and twice they differ by 100 %"):
        meta.Training.of(model, optimizer, BATCHES, watched, objective)


def test_graphs_of_inner_gradients_are_let_go():
    kept = []

    def adversarial(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        x = X[rows].clone().requires_grad_()
        F.cross_entropy(model(x), Y[rows]).backward()
        kept.append(weakref.ref(x))
        return F.cross_entropy(model(x + x.grad), Y[rows])

    model = nn.Sequential(nn.Linear(5, 3)).double()
    gc.disable()
    try:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        meta.Training.of(model, optimizer, BATCHES, adversarial, objective).gradient(memory="all")
        assert not [each for each in kept if each() is not None]
    finally:
        gc.enable()


def test_an_objective_in_training_mode_is_that_of_the_plain_loop():
    def batch_loss(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(X[rows]), Y[rows])

    plain, model = (nn.Sequential(nn.Linear(5, 3), nn.BatchNorm1d(3)).double() for _ in range(2))
    plain.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    batch_loss(plain, BATCHES[0]).backward()
    optimizer.step()
    training = meta.Training.of(
        model, one_cycle(model), BATCHES[:1], batch_loss, lambda m: F.cross_entropy(m(X_DEV), Y_DEV)
    )
    objective = training.gradient().objective
    torch.testing.assert_close(objective, F.cross_entropy(plain(X_DEV), Y_DEV).detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("memory", ["all", "states", "log"])
def test_a_parameter_that_a_later_step_writes_into_is_named(memory):
    """Such as the mean of weights that a mean teacher updates every other step."""
    model = nn.ModuleDict({"student": nn.Linear(5, 3), "teacher": nn.Linear(5, 3).requires_grad_(False)}).double()

    def loss(model: nn.Module, batch: tuple[int, torch.Tensor]) -> torch.Tensor:
        step, x = batch
        if step == 1:
            with torch.no_grad():
                model["teacher"].weight.lerp_(model["student"].weight, 0.5)
        return (model["student"](x) - model["teacher"](x)).square().mean()

    optimizer = torch.optim.SGD(model["student"].parameters(), lr=0.1)
    training = meta.Training.of(
        model, optimizer, [(t, X[:4]) for t in range(4)], loss, lambda m: m["student"](X).mean()
    )
    with pytest.raises(RuntimeError, match=r"step 1 writes into the parameter 'teacher.weight'.*belongs into buffers"):
        training.gradient(memory=memory)


def test_an_objective_that_reads_a_hyperparameter_is_refused():
    model, w = nn.Linear(5, 1).double(), torch.ones((), dtype=torch.float64, requires_grad=True)
    with pytest.raises(ValueError, match="the objective reads a hyperparameter"):
        meta.Training.of(
            model, torch.optim.SGD(model.parameters(), lr=0.1), [X[:4]], lambda m, x, w: w * m(x).square().mean(),
            lambda m: m(X).mean() + w, hyperparameters={"w": w},
        )  # fmt: skip


def by_autograd(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    x = inputs.clone().requires_grad_()
    return torch.autograd.grad(model(x).sum(), x, create_graph=True)[0]


def by_functions(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return torch.func.vmap(torch.func.grad(lambda x: model(x).sum()))(inputs)


def in_inference_mode(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        target = (2 * model(x)).softmax(1)
    return F.kl_div(model(x).log_softmax(1), target.clone(), reduction="batchmean")


def made_by(maker: Callable) -> Callable:
    def function(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        outputs = model(x)
        return F.kl_div(outputs.log_softmax(1), maker(outputs, (2 * outputs).softmax(1)), reduction="batchmean")

    return function


def written_to_data(outputs: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    target = torch.empty_like(p)
    target.data.copy_(p.data)
    target.data[:, 0] = 0.5
    return target


def averaged_by_name(outputs: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        mean, most = (
            torch.mean(input=p, dim=0, keepdim=True),
            (torch.empty(len(p)).double(), torch.empty(len(p)).long()),
        )
        torch.max(p, 1, out=most)
    return (0.9 * p.detach() + 0.1 * mean) * most[0][:, None]


def frozen_by_method(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    model.requires_grad_(False)
    moved = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(moved), y), moved)
    assert not any(p.requires_grad for p in model.parameters())
    model.requires_grad_(True)
    return F.cross_entropy(model(x + slope / slope.norm()), y)


def frozen_by_attribute(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    for parameter in model.parameters():
        parameter.requires_grad = False
    moved = x.clone().requires_grad_()
    F.cross_entropy(model(moved), y).backward()
    for parameter in model.parameters():
        parameter.requires_grad = True
    return F.cross_entropy(model(x + moved.grad / moved.grad.norm()), y)


def frozen_in_part(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    hidden = model[1](model[0](x))
    model[2].requires_grad_(False)
    of_first = model[2](hidden).square().mean()
    model[2].requires_grad_(True)
    return of_first + F.cross_entropy(model[2](hidden), y)


def norm_of_all(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = F.cross_entropy(model(x), y)
    slopes = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    return loss * (1 + torch.nn.utils.get_total_norm(slopes))


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("method", ["rmd", "forward"])
@pytest.mark.parametrize(
    "function",
    [
        in_inference_mode,
        made_by(lambda outputs, p: torch.tensor(data=p)),
        made_by(lambda outputs, p: torch.tensor([[*row] for row in p.detach()], dtype=p.dtype)),
        made_by(lambda outputs, p: outputs.new_tensor(data=p)),
        made_by(lambda outputs, p: torch.tensor([*p.detach()[0].split(1)], dtype=p.dtype).expand_as(p)),
        made_by(lambda outputs, p: torch.asarray(p, requires_grad=False)),
        made_by(written_to_data),
        made_by(averaged_by_name),
        frozen_by_method,
        frozen_by_attribute,
        frozen_in_part,
        norm_of_all,
    ],
)
def test_what_a_loss_stops_in_other_ways_is_followed(function, method):
    def weighted(model: nn.Module, rows: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return w * function(model, X[rows], Y[rows]) + 0.1 * F.cross_entropy(model(X[rows]), Y[rows])

    w = torch.tensor(0.7, dtype=torch.float64)
    training = meta.Training.of(*small(), BATCHES, weighted, objective, hyperparameters={"w": w})
    found = float(training.gradient(method=method).hyperparameters["w"])
    assert found == pytest.approx(slope_of_plain_loop(weighted, w, torch.ones(())), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("memory", ["all", "states"])
def test_forward_mode_inside_a_loss_is_differentiated(memory):
    def pushed(model: nn.Module, rows: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        _, tangent = torch.func.jvp(model, (X[rows],), (torch.ones_like(X[rows]),))
        return F.cross_entropy(model(X[rows]), Y[rows]) + w * tangent.square().mean()

    w = torch.tensor(0.1, dtype=torch.float64)
    training = meta.Training.of(*small(), BATCHES, pushed, objective, hyperparameters={"w": w})
    found = float(training.gradient(memory=memory).hyperparameters["w"])
    assert found == pytest.approx(slope_of_plain_loop(pushed, w, torch.ones(())), rel=1e-6)


def test_what_is_detached_of_batches_leaves_them_as_they_are():
    inputs = X.clone()

    def perturbed(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        moved = inputs.detach().requires_grad_()
        data = inputs.data
        data.requires_grad = True
        copied = copy.deepcopy(inputs)
        copied += 0.1
        (slope,) = torch.autograd.grad(F.cross_entropy(model(moved)[rows], Y[rows]), moved)
        return F.cross_entropy(model(copied + slope + 0 * data)[rows], Y[rows])

    meta.Training.of(*small(), BATCHES, perturbed, objective).gradient()
    assert not inputs.requires_grad
    assert torch.equal(inputs, X)


def test_a_tensor_that_is_detached_in_place_is_refused():
    def detached(model: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        outputs = model(X[rows])
        target = 2 * outputs
        target.detach_()
        return F.mse_loss(outputs, target)

    with pytest.raises(ValueError, match=r"found detach_\(\) .* write x = x.detach\(\)"):
        meta.Training.of(*small(), BATCHES, detached, objective)


@pytest.mark.parametrize("memory", ["all", "states", "reversible"])
@pytest.mark.parametrize("gradient_of", [by_autograd, by_functions])
def test_a_loss_may_take_gradients_itself(gradient_of, memory):
    """A penalty on the gradient with respect to the inputs: the slope is that of the plain loop."""

    def penalised(model: nn.Module, rows: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return model(X[rows]).square().mean() + w * gradient_of(model, X[rows]).square().sum()

    def built() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1)).double()

    def plain(w: torch.Tensor) -> float:
        model = built()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
        for rows in BATCHES:
            optimizer.zero_grad()
            penalised(model, rows, w).backward()
            optimizer.step()
        return float(model(X_DEV).square().mean().detach())

    model, w = built(), torch.tensor(0.3, dtype=torch.float64)
    training = meta.Training.of(
        model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), BATCHES, penalised,
        lambda m: m(X_DEV).square().mean(), hyperparameters={"w": w},
    )  # fmt: skip
    found = training.gradient(memory=memory).hyperparameters["w"]
    assert float(found) == pytest.approx(slope(plain, w, torch.ones(())), rel=1e-6)


def test_graphs_weigh_the_same_where_hooks_are_refused(monkeypatch):
    def bytes_of_gradient() -> int:
        model = network()
        training = meta.Training.of(
            model, one_cycle(model), BATCHES, loss, objective, hyperparameters={"weights": WEIGHTS}
        )
        return training.gradient(memory="all").cost.measured_bytes

    def refused(*hooks: object) -> None:
        raise RuntimeError("torch.func.{grad} don't yet support saved tensor hooks")

    weighed = bytes_of_gradient()
    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", refused)
    assert bytes_of_gradient() == pytest.approx(weighed, rel=0.05)
