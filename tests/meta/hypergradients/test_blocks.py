"""A loop's gradients block by block are those of double backward, and no block's graph outlives it."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta

RNG = torch.Generator().manual_seed(0)
X = torch.randn(12, 3, 4, generator=RNG, dtype=torch.float64)
Y = torch.randint(3, (len(X),), generator=RNG)
WEIGHTS = torch.rand(len(X), generator=RNG, dtype=torch.float64) + 0.5


class Pooled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(2).mean(1))


class Stopping(nn.Module):
    """What it detaches depends on its parameters nonlinearly, so that its gradient is that of no function."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x).tanh()
        with torch.no_grad():
            size = (y * self.scale).square().mean(0)
        return y / (1 + y.norm().detach() + size) * self.scale


class Image(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, None]


class Embedded(nn.Module):
    """A loop over blocks, with an argument more, between layers that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(3, 4, padding_idx=0)
        self.layers = nn.ModuleList(nn.Bilinear(4, 4, 4) for _ in range(2))
        self.head = Pooled(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = first = self.table((3 * x[..., 0].sigmoid()).long()) + x
        for layer in self.layers:
            hidden = layer(hidden, input2=first).tanh()
        return self.head(hidden)


def transformer() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(4, 2, 8, dropout=0.2, batch_first=True, norm_first=True) for _ in range(2)]
    return nn.Sequential(*layers, Pooled(4, 3))


def convolutions() -> nn.Module:
    first, second = (nn.Sequential(nn.Conv2d(n, 2, 3, padding=1), nn.GroupNorm(2, 2), nn.SiLU()) for n in (1, 2))
    return nn.Sequential(Image(), first, second, Pooled(12, 3))


MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Linear(6, 4), Pooled(4, 3)
    ),
    "transformer": transformer,
    "convolutions": convolutions,
    "stopped gradients": lambda: nn.Sequential(Stopping(), nn.Tanh(), Stopping(), Pooled(4, 3)),
    "a loop over blocks": Embedded,
}


def loss(model: nn.Module, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights[rows] * F.cross_entropy(model(X[rows]), Y[rows], reduction="none")).mean()


def objective(model: nn.Module) -> torch.Tensor:
    return F.cross_entropy(model.eval()(X[:5]), Y[:5])


def training(model: nn.Module, adam: bool = False, **options: object) -> meta.Loop:
    kind = torch.optim.Adam if adam else torch.optim.SGD
    optimizer = kind(model.parameters(), lr=0.05, **({} if adam else {"momentum": 0.9}))
    options = {"hyperparameters": {"weights": WEIGHTS}} | options
    return meta.Training.of(model, optimizer, list(torch.arange(len(X)).split(4)), loss, objective, **options)


@pytest.mark.parametrize("adam", [False, True], ids=["SGD", "Adam"])
@pytest.mark.parametrize("name", MODELS)
def test_gradients_are_those_of_double_backward(name, adam):
    torch.manual_seed(1)
    model = MODELS[name]().double()
    usual = training(model, adam).gradient(memory="states")
    blockwise = training(model, adam, adjoint="blockwise").gradient(memory="states")
    for one, other in (
        (usual.hyperparameters, blockwise.hyperparameters),
        (usual.settings, blockwise.settings),
        (usual.initial, blockwise.initial),
    ):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-12)
    assert any(float(tensor.abs().max()) > 1e-4 for tensor in usual.initial.values())


@pytest.mark.parametrize("inside", [True, False], ids=["in the loss", "around"])
@pytest.mark.parametrize("name", ["mlp", "transformer"])
def test_blocks_are_computed_again_under_the_losses_autocast(name, inside):
    """The backward pass is outside of it, where weights in float32 would meet activations in bfloat16."""

    def loss_of(model, rows, weights):
        with torch.autocast("cpu", torch.bfloat16, enabled=inside or torch.is_autocast_enabled("cpu")):
            outputs = model(X[rows].float())
        return (weights[rows].float() * F.cross_entropy(outputs.float(), Y[rows], reduction="none")).mean()

    def found(**options):
        torch.manual_seed(1)
        model = MODELS[name]()
        loop = meta.Training.of(
            model,
            torch.optim.SGD(model.parameters(), lr=0.05),
            list(torch.arange(len(X)).split(4)),
            loss_of,
            lambda model: F.cross_entropy(model(X.float()).float(), Y),
            hyperparameters={"weights": WEIGHTS},
            settings=(),
            **options,
        )
        return loop.gradient(memory="states")

    with torch.autocast("cpu", torch.bfloat16, enabled=not inside):
        usual, blockwise = found(), found(adjoint="blockwise")
    torch.testing.assert_close(blockwise.objective, usual.objective, rtol=1e-6, atol=0)
    for one, other in ((usual.hyperparameters, blockwise.hyperparameters), (usual.initial, blockwise.initial)):
        flat = [torch.cat([tensor.flatten() for tensor in tensors.values()]) for tensors in (one, other)]
        assert float((flat[0] - flat[1]).norm() / flat[0].norm()) < 0.02


@pytest.mark.parametrize("memory", ["all", "reversible", "sqrt"])
def test_it_goes_with_every_memory_policy(memory):
    torch.manual_seed(1)
    model = MODELS["mlp"]().double()
    usual = training(model, settings=()).gradient(memory="states")
    blockwise = training(model, settings=(), adjoint="blockwise")
    torch.testing.assert_close(blockwise.gradient(memory=memory).initial, usual.initial, rtol=1e-9, atol=1e-12)


def test_one_block_has_a_graph_at_a_time():
    class Token:
        pass

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.token = Token()
            if x.requires_grad:
                alive.append(sum(token() is not None for token in tokens))
                tokens.append(weakref.ref(ctx.token))
            return x.clone()

        @staticmethod
        def jvp(ctx, tangent):
            return tangent.clone()

        @staticmethod
        def backward(ctx, dy):
            return dy.clone()

    class Block(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * Watched.apply(super().forward(x)).softmax(-1)  # which saves its output

    tokens: list[weakref.ref] = []
    alive: list[int] = []
    model = nn.Sequential(*(Block(4, 4) for _ in range(5)), Pooled(4, 3)).double()
    loop = training(model, adjoint="blockwise")
    tokens.clear()
    alive.clear()
    gc.disable()  # no cycle may be left for it
    try:
        loop.gradient(memory="states")
    finally:
        gc.enable()
    assert len(alive) > 20
    assert max(alive) <= 1


def test_blocks_are_named_and_the_model_stays_as_it_is():
    torch.manual_seed(1)
    model = Embedded().double()
    attributes = [dict(module.__dict__) for module in model.modules()]
    usual = training(model).gradient(memory="states")
    for blocks in (["layers"], ["layers.0", "head"], None):
        blockwise = training(model, adjoint="blockwise", blocks=blocks).gradient(memory="states")
        torch.testing.assert_close(blockwise.initial, usual.initial, rtol=1e-9, atol=1e-12)
    assert [dict(module.__dict__) for module in model.modules()] == attributes


def norms() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(4, 4), Pooled(4, 3))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (norms, {}, "block '0' updates its buffer.*GroupNorm"),
        (lambda: Pooled(4, 3), {}, "found no nn.Sequential or nn.ModuleList"),
        (norms, {"blocks": ["3"]}, "no module '3'"),
        (transformer, {"blocks": ["0", "0.linear1"]}, "'0.linear1' is inside the block '0'"),
        (norms, {"adjoint": "block"}, "unknown adjoint 'block'"),
        (norms, {"adjoint": "double-backward", "blocks": ["1"]}, 'take adjoint="blockwise"'),
    ],
)
def test_what_cannot_be_done_by_blocks_is_said(make, options, message):
    with pytest.raises(ValueError, match=message):
        training(make().double(), **({"adjoint": "blockwise"} | options))


def test_a_loss_that_takes_gradients_itself_is_refused():
    def penalised(model: nn.Module, rows: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        x = X[rows].requires_grad_()
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return (slope.square().sum() + weights.sum()) * model(x).square().mean()

    model = MODELS["mlp"]().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RuntimeError, match="create_graph=True through a block"):
        meta.Training.of(
            model, optimizer, [torch.arange(4)], penalised, objective,
            hyperparameters={"weights": WEIGHTS}, adjoint="blockwise",
        )  # fmt: skip
