"""Fingerprints: equal for equal content, in every process; different for anything that can be told apart."""

from __future__ import annotations

import functools
import pickle
import sys
import threading
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import teachenv
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.fingerprints import describe, digest
from teachenv.losses import Bilinear

WIDTH = 4


@dataclass
class Options:
    rate: float = 0.1
    table: Any = field(default_factory=dict)


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


class Scaled(teachenv.LossFamily):
    def __init__(self, scale: float) -> None:
        self.scale = scale

    def action_size(self, num_outputs: int, batch_size: int) -> int:
        return 1

    def __call__(self, action: torch.Tensor, prediction: Any, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(prediction.outputs, targets) * (1 + self.scale * action.sum())


def class_with(value: int, method: Callable[..., Any]) -> type:
    return type("Made", (), {"value": value, "method": method})


def factory(width: int) -> Callable[[], nn.Module]:
    return lambda: nn.Linear(64, width)


def seeded(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


def task(value: float = 0.0, **changes: Any) -> Task:
    inputs = np.random.default_rng(0).random((40, 5))
    inputs[3, 2] += value
    targets = np.arange(40) % 3
    return Task("vectors", "made-up", (inputs[:30], targets[:30]), (inputs[30:], targets[30:]), 3, **changes)


class Attributed(list[int]):
    def __init__(self, value: int) -> None:
        self.value = value


class Mistake(ValueError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.known = True


def reading(value: Any) -> Callable[[], Any]:
    """A function that reads a global variable of that value."""
    return types.FunctionType((lambda: variable).__code__, {"variable": value})  # type: ignore[name-defined]  # noqa: F821


def reading_module(value: Any) -> Callable[[], Any]:
    module = types.ModuleType("__main__")
    module.constant = value  # type: ignore[attr-defined]
    return types.FunctionType((lambda: module.constant).__code__, {}, None, None, (types.CellType(module),))


def calling(function: Callable[[], Any]) -> Callable[[], Any]:
    return types.FunctionType((lambda: [variable() for _ in "ab"]).__code__, {"variable": function})  # type: ignore[name-defined]  # noqa: F821


def looped(value: int) -> list[Any]:
    own: list[Any] = [value]
    own.append(own)
    return own


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "numbers": (lambda: 1, lambda: 1.5),
    "an attribute": (lambda: Bilinear(0.5), lambda: Bilinear(2.0)),
    "an attribute of one's own class": (lambda: Scaled(0.5), lambda: Scaled(2.0)),
    "a dataclass": (lambda: Options(0.1), lambda: Options(0.2)),
    "something deep inside": (lambda: Options(table={"a": [Slotted(1)]}), lambda: Options(table={"a": [Slotted(2)]})),
    "lambdas": (lambda: lambda: nn.Tanh(), lambda: lambda: nn.ReLU()),
    "constants of lambdas": (lambda: lambda: nn.Linear(3, 4), lambda: lambda: nn.Linear(3, 5)),
    "captured values": (lambda: factory(10), lambda: factory(11)),
    "defaults": (lambda: lambda width=1: width, lambda: lambda width=2: width),
    "inner functions": (
        lambda: lambda: [(lambda i: i + 1)(j) for j in ()],
        lambda: lambda: [(lambda i: i)(j) for j in ()],
    ),
    "partial functions": (lambda: functools.partial(nn.Linear, 3, 4), lambda: functools.partial(nn.Linear, 3, 5)),
    "bound methods": (lambda: Scaled(0.5).action_size, lambda: Scaled(2.0).action_size),
    "a class's constants": (lambda: class_with(1, factory), lambda: class_with(2, factory)),
    "a class's methods": (lambda: class_with(1, lambda self: 1), lambda: class_with(1, lambda self: 2)),
    "objects of such classes": (lambda: class_with(1, factory)(), lambda: class_with(2, factory)()),
    "weights": (lambda: seeded(0), lambda: seeded(1)),
    "a mode": (lambda: seeded(0), lambda: seeded(0).eval()),
    "an activation": (lambda: nn.Sequential(nn.Tanh()), lambda: nn.Sequential(nn.ReLU())),
    "an option of a module": (lambda: nn.LeakyReLU(0.1), lambda: nn.LeakyReLU(0.2)),
    "tensors": (lambda: torch.zeros(3), lambda: torch.tensor([0.0, 0.0, 1e-30])),
    "shapes": (lambda: torch.zeros(3, 2), lambda: torch.zeros(2, 3)),
    "types": (lambda: np.zeros(3, np.float32), lambda: np.zeros(3, np.int32)),
    "arrays of objects": (lambda: np.array([1, "a"], object), lambda: np.array([1, "b"], object)),
    "sets": (lambda: {"a", "b", "c"}, lambda: {"a", "b", "d"}),
    "generators": (lambda: np.random.default_rng(0), lambda: np.random.default_rng(1)),
    "a task's data": (task, lambda: task(1e-9)),
    "a task's augmentation": (lambda: task(augment=lambda x, rng: x), lambda: task(augment=lambda x, rng: x + 1)),
    "what holds itself": (lambda: looped(1), lambda: looped(2)),
    "exceptions": (lambda: ValueError("a"), lambda: ValueError("b")),
    "a global dict": (lambda: reading({"act": nn.ReLU}), lambda: reading({"act": nn.Tanh})),
    "a global tensor": (lambda: reading(torch.ones(3)), lambda: reading(torch.zeros(3))),
    "a global list": (lambda: reading([1, [2]]), lambda: reading([1, [3]])),
    "a global object": (lambda: reading(Options(0.1)), lambda: reading(Options(0.2))),
    "a global network": (lambda: reading(seeded(0)), lambda: reading(seeded(1))),
    "a global function of PyTorch": (lambda: reading(torch.relu), lambda: reading(torch.tanh)),
    "an attribute of one's own module": (lambda: reading_module(1), lambda: reading_module(2)),
    "a global of an inner function": (lambda: calling(reading([1])), lambda: calling(reading([2]))),
    "queues": (lambda: deque([1]), lambda: deque([2])),
    "the order of an OrderedDict": (
        lambda: Slotted(OrderedDict(a=1, b=2)),
        lambda: Slotted(OrderedDict(b=2, a=1)),
    ),
    "the order of layers": (
        lambda: nn.Sequential(OrderedDict(a=nn.Tanh(), b=nn.ReLU())),
        lambda: nn.Sequential(OrderedDict(b=nn.ReLU(), a=nn.Tanh())),
    ),
    "attributes of one's own lists": (lambda: Slotted(Attributed(1)), lambda: Slotted(Attributed(2))),
    "attributes of one's own exceptions": (lambda: Mistake("a"), lambda: Mistake("b")),
    "methods of lists": (lambda: [1].index, lambda: [2].index),
    "globals": (lambda: lambda: nn.Linear(3, WIDTH), lambda: lambda: nn.Linear(3, OTHER)),
}
OTHER = 5


@pytest.mark.parametrize("name", PAIRS)
def test_only_the_same_content_has_the_same_fingerprint(name: str) -> None:
    one, other = PAIRS[name]
    assert describe(one()) == describe(one())
    assert describe(one()) != describe(other())
    assert describe({"a": [one()]}) != describe({"a": [other()]})


def test_a_copy_has_the_fingerprint_of_the_original() -> None:
    for value in (Bilinear(0.5), Options(table={"b": 1, "a": np.arange(3)}), seeded(0), task(), Slotted([1])):
        assert describe(pickle.loads(pickle.dumps(value))) == describe(value)


def test_fingerprints_are_the_same_in_another_process(in_new_process: Callable[..., str]) -> None:
    names = [name for name in PAIRS if name != "globals"]  # here "__main__" has other globals than there
    program = f"""
import sys
sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parent)!r})
from test_fingerprints import PAIRS, describe
print([describe(PAIRS[name][0]()) for name in {names!r}])
"""
    assert in_new_process(program).strip() == repr([describe(PAIRS[name][0]()) for name in names])


def test_what_a_function_counts_is_no_part_of_it() -> None:
    calls = 0

    def student() -> nn.Module:
        nonlocal calls
        calls += 1
        return nn.Linear(64, 10)

    before = digest(student)
    student()
    assert digest(student) == before


@pytest.mark.parametrize("value", [threading.Lock(), sys, len, open, print, object(), iter([1]), nn.LazyLinear(3)])
def test_what_cannot_be_looked_into_has_some_fingerprint(value: Any) -> None:
    assert describe(value) == describe(value)


def test_text_says_what_differs() -> None:
    assert describe(Bilinear(0.5)).startswith('"Bilinear(scale=0.5')
    assert describe({"b": 1, "a": (1, 2)}) == '{"a": [1, 2], "b": 1}'


SMALL = {"horizon": 3, "batch_size": 4, "dev_size": 8}


@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "named"),
    [
        ({"loss": Scaled(0.5)}, {"loss": Scaled(2.0)}, r"loss: .Scaled\(scale=0.5\) .* there, .Scaled\(scale=2.0\) "),
        ({"student": lambda: nn.Linear(5, 3)}, {"student": lambda: nn.Linear(5, 3, bias=False)}, "student: "),
        ({}, {"task": task(1e-6)}, "task: "),
    ],
    ids=["loss", "student", "task"],
)  # fmt: skip
def test_snapshots_of_environments_with_other_objects_are_refused(
    vector: bool, one: dict[str, Any], other: dict[str, Any], named: str
) -> None:
    def made(changes: dict[str, Any]) -> Any:
        settings = {"task": task(), "student": factory_of_three, **SMALL, **changes}
        return TeachVectorEnv(2, **settings) if vector else TeachEnv(**settings)

    first, same, different = made(one), made(one), made(other)
    first.reset(seed=0)
    state = pickle.loads(pickle.dumps(first.get_state()))
    same.set_state(state)
    with pytest.raises(ValueError, match=rf"state of another environment \({named}"):
        different.set_state(state)


def factory_of_three() -> nn.Module:
    return nn.Linear(5, 3)
