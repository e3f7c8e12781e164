"""What users' arrays hold besides plain numbers: masked values, truth values, whole numbers as features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import meta
from teachenv import Task, TeachEnv

N = 40
X = np.random.default_rng(0).normal(size=(N, 4))
Y = (X[:, 0] > 0).astype(np.int64)
ONCE: dict[str, Any] = {"repeats": 1, "rounds": 1, "steps": 3, "folds": 2}


class Listed(Dataset[Any]):
    def __init__(self, inputs: Any, targets: Any) -> None:
        self.samples = list(zip(inputs, targets, strict=True))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> Any:
        return self.samples[i]


def own(inputs: Any, targets: Any, **parts: Any) -> Task:
    pair = inputs, targets
    return Task("own", "own", **({"pool": pair, "test": pair} | parts))


def training(inputs: Any, targets: Any) -> meta.OwnTraining:
    return meta.OwnTraining(module=lambda: nn.Linear(4, 2), data=(inputs, targets), steps=2)


def environment() -> TeachEnv:
    env = TeachEnv(task=own(X, Y), student="mlp", horizon=2, batch_size=5, dev_size=8)
    env.reset(seed=0)
    return env


READS: dict[str, Callable[[Any, Any], Any]] = {
    "Task": own,
    "test": lambda x, y: own(X, Y, test=(x, y)),
    "dev": lambda x, y: own(X, Y, dev=(x, y)),
    "named": lambda x, y: own({"a": x}, y, test=({"a": X}, Y)),
    "lists": lambda x, y: own([*x], [*y]),
    "Dataset": lambda x, y: own(X, Y, pool=Listed(x, y)),
    "OwnTraining": training,
    "attribute": lambda x, y: meta.attribute(training(X, Y), tests=(x, y)),
    "label_issues": lambda x, y: meta.label_issues((x, y), **ONCE),
    "trusted": lambda x, y: meta.label_issues((X, Y), trusted=(x, y), **ONCE),
    "predict": lambda x, y: environment().predict(x),
}

# --- masked arrays ----------------------------------------------------------------------------------------------------

HOLED = np.ma.masked_greater(X, 1.5)
MASKED = {
    "inputs": (HOLED, Y),
    "targets": (X, np.ma.masked_array(Y, mask=np.arange(N) % 7 == 3)),
    "texts": (X, np.ma.masked_array(np.array(["a", "b"])[Y], mask=np.arange(N) % 7 == 3)),
}
NO_TARGETS = [("targets", "predict"), ("texts", "predict")]


@pytest.mark.parametrize(("part", "read"), [(p, r) for p in MASKED for r in READS if (p, r) not in NO_TARGETS])
def test_masked_values_are_refused(part: str, read: str) -> None:
    """As plain arrays they have what lies under the mask: -999, or whatever a sensor wrote."""
    with pytest.raises(ValueError, match=r"found masked values, expected a value everywhere: .*array\.filled"):
        READS[read](*MASKED[part])


@pytest.mark.parametrize("read", [read for read in READS if read != "dev"])  # whose samples are the pool's
def test_masks_that_hide_nothing_are_let_through(read: str) -> None:
    READS[read](np.ma.masked_array(X, mask=np.zeros_like(X, bool)), np.ma.masked_array(Y))
    READS[read](HOLED.filled(0.0), np.ma.masked_array(Y, mask=False))


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_are_refused() -> None:
    masked = torch.masked.masked_tensor(torch.from_numpy(X), torch.from_numpy(X < 1.5))
    with pytest.raises(TypeError, match=r"inputs are a masked tensor; expected a plain one: call to_tensor\(value\)"):
        own(masked, Y)
    assert own(masked.to_tensor(0.0), Y).num_outputs == 2


# --- truth values -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read for read in READS if read not in ("dev", "predict")])
@pytest.mark.parametrize(
    "labels",
    [Y == 1, torch.from_numpy(Y == 1), (Y == 1).tolist(), (Y == 1)[:, None], pd.Series(Y == 1)],
    ids=["array", "tensor", "list", "column", "pandas"],
)
def test_truth_values_are_the_classes_0_and_1(labels: Any, read: str) -> None:
    found, expected = READS[read](X, labels), READS[read](X, Y)
    if isinstance(found, Task):
        for part in ("pool", "test"):
            assert torch.equal(getattr(found, part)[1], getattr(expected, part)[1])
            assert getattr(found, part)[1].dtype == torch.int64
        assert found.num_outputs == 2
    elif isinstance(found, meta.OwnTraining):
        assert torch.equal(found.environment().task.pool[1], expected.environment().task.pool[1])
    else:
        name = "values" if hasattr(found, "values") else "scores"
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


# --- numbers of classes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([10, 20, 30], r"up to 30 but none that is 0, 1, 2, 3, 4, \.\.\., which makes 31 outputs for 3 classes"),
        ([1, 2, 3], "up to 3 but none that is 0, which makes 4 outputs for 3 classes"),
        ([0, 1, 3], r"up to 3 but none that is 2, .*np\.unique\(.*num_outputs=4"),
        ([0, 1, 2_000_000], r"up to 2000000 but none that is 2, 3, 4, 5, 6, \.\.\., which makes 2000001 outputs"),
    ],
)
def test_labels_that_skip_a_number_are_refused(numbers: list[int], message: str) -> None:
    """They made a network with outputs for classes that there are not."""
    labels = np.array(numbers)[np.arange(N) % 3]
    with pytest.raises(ValueError, match=f"task 'own': found labels {message}"):
        own(X, labels)
    assert own(X, labels, num_outputs=max(numbers) + 1).num_outputs == max(numbers) + 1
    assert own(X, np.unique(labels, return_inverse=True)[1]).num_outputs == 3
    assert training(X, labels).loss == "cross-entropy"  # there the network says how many classes there are


def test_classes_of_any_split_and_of_any_name_count() -> None:
    labels = np.arange(N) % 4
    few = labels != 2
    for split in ("test", "dev"):
        parts = {"pool": (X[few], labels[few]), "test": (X[few], labels[few]), split: (X[~few] + 1, labels[~few])}
        assert own(X, labels, **parts).num_outputs == 4
    assert own(X[few], labels[few], classes=tuple("abcd")).num_outputs == 4
    with pytest.raises(ValueError, match="classes has 3 names, expected one for each of num_outputs classes, found 4"):
        own(X, labels, classes=tuple("abc"))


# --- whole numbers as features ----------------------------------------------------------------------------------------


COUNTS = (5 * X).astype(int)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TeachEnv(task=own(COUNTS, Y), student="mlp", horizon=2, batch_size=5, dev_size=8),
        lambda: TeachEnv(task=own(COUNTS, Y), student=lambda: nn.Linear(4, 2), horizon=2, batch_size=5, dev_size=8),
        lambda: training(COUNTS, Y).environment(),
    ],
    ids=["named network", "own network", "OwnTraining"],
)
def test_features_that_are_integers_get_a_remedy(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"fails on inputs .* integers are taken as tokens: give features as floats$"):
        make()
