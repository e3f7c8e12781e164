"""The audit finds second derivatives that are wrong or missing, and says whether what replaces them is right."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import meta
from teachenv.randomness import generator_states

REVERSE, FORWARD = "double backward", "forward over reverse"


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Linear(4, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.scaled_dot_product_attention(*self.projection(x).chunk(3, -1))


class Cube(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return dy * 3 * x.detach() ** 2  # right, and its derivative is not


class Cubed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return Cube.apply(x)


class OwnNoise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(x.shape, generator=self.generator, dtype=x.dtype)


class Float32Inside(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.softmax(x.to(torch.float32), -1, dtype=torch.float32) * x.float().square()


class Straight(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.norm().detach()


class Bag(nn.EmbeddingBag):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.flatten(1).argsort(1) % 6)


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(nn.Linear(4, 4))


def rows_of(model: nn.Module, inputs: object = None) -> dict[tuple[str, str], meta.AuditRow]:
    report = meta.audit(model, torch.randn(3, 2, 4) if inputs is None else inputs)
    return {(row.module, row.derivative): row for row in report.rows}


@pytest.mark.parametrize(
    ("make", "reverse", "forward", "operation", "ok"),
    [
        (weight_normed, "wrong", "missing", "_weight_norm", True),
        (Attention, "missing", "missing", "_scaled_dot_product", True),
        (lambda: nn.BatchNorm1d(2), "right", "right", None, True),
        (Cubed, "wrong", "missing", "Cube", False),
        (Straight, "wrong", "wrong", None, True),
        (nn.Dropout, "right", "right", None, True),
        (OwnNoise, "nondeterministic", "nondeterministic", "its outputs: it draws from a generator", False),
        (Float32Inside, "right", "right", None, True),
        (lambda: nn.ReLU(inplace=True), "right", "right", None, True),
        (lambda: nn.LSTM(4, 3), "right", "missing", "mkldnn_rnn_layer", True),
        (lambda: Bag(6, 4), "missing", "missing", "_embedding_bag", True),
    ],
)
def test_each_is_found_and_what_replaces_it_checked(make, reverse, forward, operation, ok):
    torch.manual_seed(0)
    model = nn.Sequential(make())
    rows = rows_of(model)
    name = "0"
    assert (rows[name, REVERSE].in_pytorch, rows[name, FORWARD].in_pytorch) == (reverse, forward)
    assert rows[name, REVERSE].ok == rows[name, FORWARD].ok == ok
    for row in rows.values():
        if row.in_pytorch in ("wrong", "missing") and row.module == name and operation:
            assert operation in row.operation
        assert (row.error is None) == (row.in_pytorch in ("missing", "nondeterministic"))
        assert row.in_pytorch == "right" or (row.replacement is not None) == ok
    assert [key for key in rows if key[0] == ""] == []  # what is amiss is in the module inside


def test_the_row_of_an_embedding_for_padding_has_a_second_derivative():
    model = nn.Sequential(nn.Embedding(5, 4, padding_idx=0), nn.Linear(4, 2))
    rows = rows_of(model, torch.tensor([[0, 1], [2, 0]]))
    assert (rows["", REVERSE].in_pytorch, rows["", REVERSE].replaced) == ("wrong", "right")
    assert {row.in_pytorch for key, row in rows.items() if key != ("", REVERSE)} == {"right"}


class Root(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().sum(-1).sqrt()


def test_a_call_may_stand_on_a_kink_but_not_where_there_is_no_number():
    torch.manual_seed(0)
    dropped = nn.Sequential(nn.Linear(5, 6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 2))
    assert meta.audit(dropped, torch.randn(4, 5)).ok
    assert meta.audit(Root(), torch.randn(4, 5, requires_grad=True)).ok
    assert not meta.audit(Root(), torch.zeros(4, 5, requires_grad=True)).ok


def test_what_replaces_batch_norm_is_said_though_it_is_right():
    row = rows_of(nn.BatchNorm1d(2))["", REVERSE]
    assert (row.in_pytorch, row.replaced) == ("right", "right")
    assert "cheap second derivative" in row.replacement


def test_a_replacement_that_is_wrong_is_found(monkeypatch):
    monkeypatch.setattr("teachenv.students.kernels.weight_norm", lambda v, g, dim=0: v * (g / v.norm().detach()))
    row = rows_of(weight_normed())["", REVERSE]
    assert row.replaced == "wrong"
    assert not row.ok


def test_the_model_and_all_generators_stay_as_they_are():
    model = nn.Sequential(weight_normed(), nn.BatchNorm1d(2), nn.Dropout(0.5)).train()
    model[1].weight.grad = torch.ones(2)
    inputs = torch.randn(3, 2, 4)
    before, tensors = copy.deepcopy(model.state_dict()), dict(model.named_parameters())
    attributes = [dict(module.__dict__) for module in model.modules()]
    generators, seen = generator_states(), inputs.clone()
    meta.audit(model, inputs)
    assert generator_states() == generators
    assert torch.equal(inputs, seen)
    assert not inputs.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(tensors[name] is parameter for name, parameter in model.named_parameters())
    assert [dict(module.__dict__) for module in model.modules()] == attributes
    assert all(not m._forward_hooks for m in model.modules())
    assert torch.equal(model[1].weight.grad, torch.ones(2))
    assert all(parameter.grad is None for name, parameter in tensors.items() if name != "1.weight")


def test_inputs_come_by_position_or_by_name_and_the_report_is_a_table():
    model = nn.Bilinear(4, 3, 2)
    x, y = torch.randn(5, 4), torch.randn(5, 3)
    reports = [meta.audit(model, (x, y)), meta.audit(model, {"input1": x, "input2": y})]
    assert reports[0] == reports[1]
    assert reports[0].ok
    assert str(reports[0]).splitlines() == [
        'double backward, for method="rmd", "truncated": right (modules checked: 1)',
        'forward over reverse, for method="forward", adjoint="blockwise": right (modules checked: 1)',
    ]
    report = meta.audit(nn.ModuleDict({"used": Cubed(), "other": nn.Linear(1, 1)})["used"], x)
    lines = str(report).splitlines()
    assert lines[0].split() == ["module", "derivative", "in", "PyTorch", "operation", "in", "teachenv"]
    assert lines[1].startswith("the model (Cubed)  double backward")
    assert lines[1].endswith("Cube       nothing else")
    assert 'for method="rmd", "truncated": not right in the model' in lines[3]


def test_the_batch_of_a_transformers_model_is_audited_through_its_loss():
    transformers = pytest.importorskip("transformers")
    configuration = transformers.BertConfig(
        vocab_size=20, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, num_labels=2
    )
    model = transformers.BertForSequenceClassification(configuration).eval()
    rng = torch.Generator().manual_seed(0)
    batch = {"input_ids": torch.randint(20, (3, 4), generator=rng), "labels": torch.tensor([0, 1, 1])}
    report = meta.audit(model, batch)
    rows = {(row.module, row.derivative): row for row in report.rows}
    attention = rows["bert.encoder.layer.0.attention.self", REVERSE]
    assert (attention.in_pytorch, attention.replacement, attention.replaced) == (
        "missing", "attention's math kernel", "right",
    )  # fmt: skip
    assert report.ok


@pytest.mark.parametrize(
    ("model", "inputs", "error", "message"),
    [
        (lambda x: x, torch.ones(1), TypeError, "model must be a torch.nn.Module"),
        (nn.Linear(2, 2), 3, TypeError, "inputs must be what the model is called with.*found 3"),
        (nn.Linear(2, 2, dtype=torch.complex64), torch.ones(2), ValueError, "complex"),
    ],
)
def test_what_cannot_be_audited_is_said(model, inputs, error, message):
    with pytest.raises(error, match=message):
        meta.audit(model, inputs)


def test_a_module_that_has_no_float64_is_unchecked_and_says_why():
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.eye(4)  # no buffer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.matrix

    row = rows_of(Fixed())["", REVERSE]
    assert row.in_pytorch == "unchecked"
    assert "dtype" in row.operation
    assert not row.ok
