"""Data of users in every form: Datasets, DataLoaders, tables, texts as labels."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from teachenv import Task, TeachEnv, TeachVectorEnv

RNG = np.random.default_rng(0)
N, D, C = 30, 4, 3
X = RNG.normal(size=(N + 9, D)).astype(np.float32)
Y = np.arange(N + 9) % C
NAMES = np.array(["ape", "bee", "cow"])
SMALL = {"student": "mlp", "horizon": 2, "batch_size": 5, "dev_size": 8}


def split(inputs, targets):
    return {"pool": (inputs[:N], targets[:N]), "test": (inputs[N:], targets[N:])}


def own(**parts) -> Task:
    return Task(**({"name": "own", "dataset": "own", **split(X, Y)} | parts))


class Listed(Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]


class Restless(Listed):
    def __getitem__(self, i):
        return torch.rand(D), i % C


class Endless(IterableDataset):
    def __iter__(self):
        yield torch.rand(D), 0


def same(task, expected=None):
    expected = own() if expected is None else expected
    for a, b in zip((*task.pool, *task.test), (*expected.pool, *expected.test), strict=True):
        assert torch.equal(a, b)
    assert task.num_outputs == expected.num_outputs


TENSORS = TensorDataset(torch.from_numpy(X[:N]), torch.from_numpy(Y[:N]))
DICTIONARIES = Listed([{"pixels": x, "label": int(y)} for x, y in zip(X[:N], Y[:N], strict=True)])


@pytest.mark.parametrize(
    "pool",
    [
        TENSORS,
        Listed(list(zip(X[:N], Y[:N].tolist(), strict=True))),
        DICTIONARIES,
        DataLoader(TENSORS, batch_size=7),
        DataLoader(DICTIONARIES, batch_size=7),
        (pd.DataFrame(X[:N]), pd.Series(Y[:N])),
        (X[:N], pd.Series(Y[:N]).astype("Int64")),
        (X[:N].tolist(), Y[:N].astype(np.float32)[:, None]),
    ],
    ids=["tensors", "listed", "dictionaries", "loader", "loader of dictionaries", "pandas", "nullable", "lists"],
)
def test_data_of_every_form_is_the_same_task(pool):
    task = own(pool=pool) if not isinstance(pool, tuple) or not isinstance(pool[0], list) else None
    if task is None:
        inputs, labels = pool
        task = own(pool=(np.asarray(inputs, np.float32), labels))
    same(task)


@pytest.mark.parametrize(
    ("pool", "error", "message"),
    [
        (Restless([0] * N), ValueError, "answers differently each time: its sample 0 .* Task\\(augment=...\\)"),
        (
            DataLoader(TENSORS, batch_size=7, shuffle=True),
            ValueError,
            "answers differently each time; .* shuffle=False",
        ),
        (DataLoader(TENSORS, batch_size=7, drop_last=True), ValueError, "gives 28 of the 30 samples .*drop_last=False"),
        (DataLoader(Endless(), batch_size=7), TypeError, "the DataLoader has no length, as one of an IterableDataset"),
        (Endless(), TypeError, "a Dataset with a length and samples by number, found a Endless"),
        (Listed([]), ValueError, "the Dataset has no samples"),
        (Listed([X[0]]), TypeError, r"sample 0 of the Dataset is .*expected a pair \(input, label\)"),
        (
            Listed([{"x": X[0], "y": 0}]),
            TypeError,
            "has the keys 'x', 'y', expected inputs and one label, named 'label'",
        ),
        (Listed([("a text", 0)]), TypeError, "the input of sample 0 of the Dataset is of type str, expected numbers"),
        (Listed([(X[0], 0), (X[0][:2], 1)]), ValueError, "have different shapes, .*a transform that resizes"),
        (Listed([(X[0], object())]), TypeError, "the label of sample 0 of the Dataset is of type object"),
        (X, TypeError, "found a ndarray; give its inputs and its targets apart"),
        (pd.DataFrame(X), TypeError, "found a DataFrame; give its inputs and its targets apart"),
        ({"x": X, "y": Y}, TypeError, "found a dict; give its inputs and its targets apart"),
        ((X, Y, Y), TypeError, r"expected a pair \(inputs, targets\), found a tuple of 3"),
        ("pool.csv", TypeError, "found 'pool.csv'; give its samples as arrays"),
    ],
)
def test_what_is_no_data_is_said(pool, error, message):
    with pytest.raises(error, match=message):
        own(pool=pool)


def test_images_of_pil_are_pixels_channels_first():
    pixels = RNG.integers(0, 256, (2, 5, 6, 3)).astype(np.uint8)
    task = own(**dict.fromkeys(("pool", "test"), Listed([(Image.fromarray(p), 0) for p in pixels])))
    assert torch.equal(task.pool[0], torch.from_numpy(pixels).permute(0, 3, 1, 2))
    gray = Listed([(Image.fromarray(p[..., 0]), 0) for p in pixels])
    assert torch.equal(own(pool=gray, test=gray).pool[0][:, 0], torch.from_numpy(pixels[..., 0]))


# --- texts as labels -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [NAMES[Y], NAMES[Y].astype(object), pd.Series(NAMES[Y]).astype("category"), pd.Series(NAMES[Y], dtype="string")],
)
def test_texts_are_numbered_and_their_names_kept(labels):
    task = own(**split(X, labels))
    same(task)
    assert task.classes == ("ape", "bee", "cow")
    env = TeachEnv(task=task, **SMALL)
    env.reset(seed=0)
    outputs = env.predict(X[:6])
    assert task.named(outputs).tolist() == NAMES[outputs.argmax(1)].tolist()
    assert env.task.with_label_noise(0.5, "pair", 0).to(torch.float64).classes == task.classes


def test_names_may_be_given_in_an_order_of_ones_own():
    task = own(classes=["cow", "bee", "ape", "gnu"], **split(X, NAMES[Y]))
    assert torch.equal(task.pool[1], 2 - own().pool[1])
    assert task.num_outputs == 4
    of_numbers = own(classes=("a", "b", "c"))
    assert of_numbers.named([[0.0, 1.0, 0.5]]).tolist() == ["b"]
    assert own().named([[0.0, 1.0, 0.5]]).tolist() == [1]


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        (
            {"test": (X[N:], ["ape"] * 8 + ["dog"])},
            ValueError,
            r"own', test: unknown label 'dog', expected one of \['ape'",
        ),
        ({"test": (X[N:], Y[N:] + 7)}, ValueError, r"lie in \[7, 9\]|classes"),
        ({"pool": (X[:N], ["ape", None, "bee"] * 10)}, ValueError, "10 samples have no label, sample 1 first"),
        ({"pool": (X[:N], pd.Series(["ape", pd.NA, "bee"] * 10))}, ValueError, "10 samples have no label"),
        ({"pool": (X[:N], np.array(["ape", 1, 2] * 10, object))}, TypeError, "texts with 1 among them; .*of one kind"),
        (
            {"pool": (X[:N], np.array([["ape", "bee"]] * N))},
            ValueError,
            r"shape \(30, 2\), .*give a column of 0 and 1 for each class",
        ),
        ({"pool": (X[:N], Y[:N])}, ValueError, "labels are texts in test and numbers in pool"),
        ({"classes": ("ape", "bee", "bee")}, ValueError, "classes must be different texts"),
        ({"classes": ("ape", 3)}, ValueError, "classes must be different texts"),
        ({"classes": "ape"}, ValueError, "classes"),
        ({"classes": tuple("abcd"), "num_outputs": 3, **split(X, Y)}, ValueError, "classes has 4 names, .*found 3"),
        ({"classes": ("ape",), **split(X, X[:, 0])}, ValueError, "targets are for regression"),
    ],
)
def test_labels_that_do_not_fit_are_said(parts, error, message):
    with pytest.raises(error, match=message):
        own(**(split(X, NAMES[Y]) | parts))


# --- pixels ----------------------------------------------------------------------------------------------------------

PIXELS = RNG.integers(0, 256, (N + 9, 1, 4, 4)).astype(np.uint8)
SCALED = torch.from_numpy(PIXELS).float().div(255)


def network():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, C))


def brighter(inputs, rng):
    return inputs * float(rng.uniform(0.5, 1.0))


@pytest.mark.parametrize("student", ["mlp", network])
@pytest.mark.parametrize("augment", [None, brighter])
def test_a_training_on_pixels_is_that_on_their_floats(student, augment):
    tasks = [own(**split(inputs, Y), augment=augment) for inputs in (PIXELS, SCALED)]
    assert tasks[0].pool[0].dtype == torch.uint8
    envs = [TeachEnv(**SMALL | {"student": student}, task=task) for task in tasks]
    for env in envs:
        env.reset(seed=3)
    steps = [env.step(np.full(C * C, 0.3, np.float32)) for env in envs]
    assert np.array_equal(steps[0][0], steps[1][0])
    assert steps[0][1] == steps[1][1] != 0
    assert envs[0].evaluate() == envs[1].evaluate()
    given = PIXELS[:5], PIXELS[:5].astype(int), SCALED[:5], SCALED[:5].double()
    assert all(torch.equal(envs[0].predict(inputs), envs[1].predict(SCALED[:5])) for inputs in given)
    with pytest.raises(ValueError, match="go from 0 to 300, expected pixels"):
        envs[0].predict(np.full((1, 1, 4, 4), 300) * np.arange(2).repeat(8).reshape(1, 1, 4, 4))


def test_many_students_on_pixels_are_each_of_them():
    task = own(**split(PIXELS, Y))
    students = TeachVectorEnv(num_envs=3, task=task, **SMALL)
    students.reset(seed=[4, 5, 6])
    actions = RNG.uniform(-1, 1, (3, C * C)).astype(np.float32)
    observations, rewards, *_ = students.step(actions)
    for i in range(3):
        env = TeachEnv(task=task, **SMALL)
        env.reset(seed=4 + i)
        observation, reward, *_ = env.step(actions[i])
        np.testing.assert_allclose(observations[i], observation, atol=1e-5)
        np.testing.assert_allclose(rewards[i], reward, atol=1e-5)
    of_dev, _ = students.dynamics.dev(env.episode)
    assert students.dynamics.rows.inputs.dtype == of_dev.dtype == torch.uint8
