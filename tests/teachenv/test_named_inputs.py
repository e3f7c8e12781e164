"""Samples of several inputs by name: the same training as with one tensor that the network takes apart."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import meta
import teachenv
from teachenv import Task, TeachEnv, TeachVectorEnv
from teachenv.experiment import Effort, fixed
from teachenv.experiment.contest import Rung
from teachenv.experiment.report import Report

RNG = np.random.default_rng(0)
N, LENGTH, WORDS, SAMPLES = 30, 5, 12, 42
IDS = RNG.integers(0, WORDS, (SAMPLES, LENGTH))
MASK = np.arange(LENGTH) < RNG.integers(1, LENGTH + 1, (SAMPLES, 1))
AGES = RNG.normal(size=SAMPLES).astype(np.float32)
Y = (IDS[:, 0] >= WORDS // 2).astype(int)
SMALL = {"horizon": 3, "batch_size": 6, "dev_size": 8, "learning_rate": 0.3}


class Reader(nn.Module):
    """The mean of the embeddings of words that are not padding, as a model of Hugging Face answers."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, 4), nn.Linear(4, 2)

    def forward(self, input_ids, attention_mask, ages=None):
        seen = attention_mask[..., None].to(self.head.weight)
        hidden = (self.embedding(input_ids) * seen).sum(-2) / seen.sum(-2)
        if ages is not None:
            hidden = hidden + ages[..., None]
        return {"logits": self.head(hidden)}


class OfOneTensor(Reader):
    """The same network, on ids, mask and age in one tensor of floating-point numbers."""

    def forward(self, inputs):
        ids, mask, ages = inputs.split([LENGTH, LENGTH, 1], -1)
        return super().forward(ids.long(), mask.bool(), ages[..., 0])


def inputs(rows=slice(None), **changes):
    parts = {"input_ids": IDS, "attention_mask": MASK, **changes}
    return {name: part[rows] for name, part in parts.items() if part is not None}


def task(ages=None, **parts):
    pool, test = inputs(slice(N), ages=ages), inputs(slice(N, None), ages=ages)
    return Task(**({"name": "own", "dataset": "own", "pool": (pool, Y[:N]), "test": (test, Y[N:])} | parts))


def of_one_tensor():
    x = np.concatenate([IDS, MASK, AGES[:, None]], 1).astype(np.float32)
    return Task("own", "own", (x[:N], Y[:N]), (x[N:], Y[N:]))


def episode(env):
    env.reset(seed=3)
    rng, rewards, ended = np.random.default_rng(0), [], np.array([False])
    while not np.all(ended):
        action = rng.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype)
        _, reward, ended, _, info = env.step(action)
        rewards.append(reward)
    return np.array(rewards), info


@pytest.mark.parametrize("memory", ["states", "sqrt"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rewards_and_derivatives_are_those_of_one_tensor(memory, dtype):
    found, expected = (
        episode(meta.ActionGradient(TeachEnv(task=each, student=student, dtype=dtype, **SMALL), memory=memory))
        for each, student in ((task(AGES), Reader), (of_one_tensor(), OfOneTensor))
    )
    assert np.array_equal(found[0], expected[0])
    assert np.array_equal(found[1]["action_gradient"], expected[1]["action_gradient"])
    assert np.abs(found[1]["action_gradient"]).max() > 0


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_many_students_are_trained_as_each_alone(path):
    many = TeachVectorEnv(num_envs=2, task=task(), student=Reader, path=path, **SMALL)
    many.reset(seed=[3, 4])
    alone = TeachEnv(task=task(), student=Reader, **SMALL)
    for i, seed in enumerate((3, 4)):
        alone.reset(seed=seed)
        if not i:
            rewards = many.step(np.full((2, *alone.action_space.shape), 0.5, np.float32))[1]
        np.testing.assert_allclose(alone.step(np.full(alone.action_space.shape, 0.5, np.float32))[1], rewards[i], 1e-4)
    assert many.predict(inputs(slice(3))).shape == (2, 3, 2)


class Listed(Dataset):
    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]


def datasets():
    """Of pairs, and as Hugging Face has it."""
    each = [{"input_ids": IDS[i], "attention_mask": MASK[i]} for i in range(N)]
    pairs = Listed([(one, int(y)) for one, y in zip(each, Y[:N], strict=True)])
    flat = Listed([{**one, "labels": int(y)} for one, y in zip(each, Y[:N], strict=True)])
    lists = Listed([{"attention_mask": a.tolist(), "label": int(y), "input_ids": i.tolist()} for i, a, y in rows()])
    return [pairs, flat, lists, DataLoader(pairs, batch_size=7), DataLoader(flat, batch_size=7)]


def rows():
    return zip(IDS[:N], MASK[:N], Y[:N], strict=True)


@pytest.mark.parametrize("pool", datasets())
def test_datasets_and_loaders_are_read_by_name(pool):
    found = task(pool=pool)
    assert torch.equal(found.pool[1], torch.from_numpy(Y[:N]))
    unpacked = found.packing.unpack(found.pool[0])
    assert torch.equal(unpacked["input_ids"], torch.from_numpy(IDS[:N]))
    assert torch.equal(unpacked["attention_mask"], torch.from_numpy(MASK[:N]))


@pytest.mark.parametrize(
    ("kinds", "packed"),
    [
        ({}, torch.int64),
        ({"ages": AGES}, torch.float32),
        ({"ages": AGES.astype(np.float64)}, torch.float64),
        ({"ages": AGES, "input_ids": IDS.astype(np.uint16)}, torch.float32),
        ({"input_ids": None, "attention_mask": None, "left": AGES, "right": np.stack([AGES] * 2, 1)}, torch.float32),
        ({"pixels": RNG.integers(0, 256, (SAMPLES, 1, 2, 2), np.uint8)}, torch.float32),
        ({"input_ids": None, "attention_mask": None, "a": np.zeros((SAMPLES, 1, 2, 2), np.uint8)}, torch.uint8),
    ],
)
def test_each_kind_of_inputs_comes_back_as_it_was(kinds, packed):
    pool = inputs(slice(N), **kinds)
    own = task(pool=(pool, Y[:N]), test=(inputs(slice(N, None), **kinds), Y[N:]))
    assert own.pool[0].dtype == packed
    for name, part in own.packing.unpack(own.pool[0]).items():
        scale = 255 if pool[name].dtype == np.uint8 and packed != torch.uint8 else 1
        np.testing.assert_allclose(part.numpy() * scale, pool[name], rtol=1e-6)


def test_a_task_stays_itself_in_another_precision_and_with_a_trusted_dev_set():
    own = task(AGES)
    other = own.to(torch.float64)
    assert other.packing == own.packing
    assert other.pool[0].dtype == torch.float64
    with pytest.raises(TypeError, match=r"few whole numbers.* expected torch.float32"):
        own.to(torch.bfloat16)
    env = TeachEnv(task=own, student=Reader, trusted_dev=9, **SMALL)
    env.reset(seed=0)
    assert env.predict(inputs(slice(2), ages=AGES)).shape == (2, 2)
    assert torch.equal(env.predict(own.test[0]), env.predict(inputs(slice(N, None), ages=AGES)))


def test_an_augmentation_gets_a_dictionary_and_returns_one():
    def drop_words(given, rng):
        kept = torch.from_numpy(rng.random(tuple(given["attention_mask"].shape)) < 0.5)
        kept[..., 0] = True
        return {**given, "attention_mask": given["attention_mask"] & kept}

    plain, dropped, again = (
        episode(TeachEnv(task=task(augment=augment), student=Reader, **SMALL))[0]
        for augment in (None, drop_words, drop_words)
    )
    assert np.array_equal(dropped, again)
    assert not np.array_equal(plain, dropped)
    for wrong, message in (
        (lambda given, rng: given["input_ids"], "it returns Tensor, expected a dictionary"),
        (lambda given, rng: {"input_ids": given["input_ids"]}, "what it returns: inputs have the keys 'input_ids'"),
    ):
        with pytest.raises(ValueError, match=f"augmentation of task 'own' fails with .*{message}"):
            TeachEnv(task=task(augment=wrong), student=Reader, **SMALL)


class Writes(Reader):
    """Writes into its inputs before it reads them."""

    def forward(self, input_ids, attention_mask, ages=None):
        input_ids[..., 0] += 1
        return super().forward(input_ids % WORDS, attention_mask, None if ages is None else ages.mul_(0.5))


class WithoutWriting(Writes):
    def forward(self, input_ids, attention_mask, ages=None):
        return super().forward(*(None if each is None else each.clone() for each in (input_ids, attention_mask, ages)))


@pytest.mark.parametrize("path", ["vmap", "loop"])
@pytest.mark.parametrize("ages", [None, AGES])
def test_a_network_that_writes_into_its_inputs_leaves_the_data_as_it_is(path, ages):
    found = []
    for student in (Writes, WithoutWriting):
        own = task(ages)
        env = TeachVectorEnv(num_envs=2, task=own, student=student, path=path, **SMALL)
        rewards, _ = episode(env)
        found.append((rewards, env.evaluate_final("test")["test_objective"]))
        assert all(
            torch.equal(a, b) for a, b in zip((*own.pool, *own.test), (*own.pool, *task(ages).test), strict=True)
        )
    for mine, expected in zip(*found, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-5)


def test_lazy_modules_and_pairs_are_called_by_name():
    class Lazy(Reader):
        def __init__(self):
            super().__init__()
            self.head = nn.LazyLinear(2)

        def forward(self, input_ids, attention_mask):
            return self.head(self.embedding(input_ids).mean(-2) + attention_mask.sum(-1, keepdim=True))

    env = TeachEnv(task=task(), student=Lazy, teacher=Reader, loss="distillation", **SMALL)
    rewards, _ = episode(env)
    assert np.isfinite(rewards).all()


def test_a_comparison_trains_such_students(tmp_path, monkeypatch):
    monkeypatch.setattr(Report, "figures", {})  # which take seconds
    report = teachenv.compare(
        task=task(AGES),
        student=Reader,
        horizon=2,
        batch_size=8,
        dev_size=10,
        methods={"cross-entropy": fixed("cross-entropy")},
        tune={"learning_rate": [0.4], "lr_schedule": ["linear"]},
        budget=8,
        seeds=1,
        out=tmp_path,
        backend="inline",
        effort=Effort(student_steps=8, parallel=2, rungs=(Rung(2, 4, 1, 1),), points=2, students=2, final_students=2),
    )
    assert any(row.metric == "test_error" for row in report.rows)


class WithoutMask(Reader):
    def forward(self, input_ids):
        return super().forward(input_ids, torch.ones_like(input_ids))


def rest(**changes):
    return {"test": (inputs(slice(N, None), **changes), Y[N:])}


HUGE = IDS + 2**24 * (IDS == 1)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (rest(attention_mask=None), "test: inputs have the keys 'input_ids', expected 'input_ids', 'attention_mask'"),
        (rest(ages=AGES), "'ages', expected 'input_ids', 'attention_mask', as in the pool"),
        (rest(input_ids=IDS[:, :3]), r"'input_ids' of one sample has shape \(3,\), expected \(5,\) as in the pool"),
        (rest(input_ids=AGES[:, None] + IDS), "'input_ids' has floating-point numbers .* expected whole numbers"),
        ({"test": (IDS[N:], Y[N:])}, r"inputs are an array of shape \(12, 5\), expected a dictionary of 'input_ids'"),
        (
            {"pool": (IDS[:N], Y[:N])},
            "inputs are a dictionary of 'input_ids', 'attention_mask', but the pool's are one",
        ),
        ({"pool": ({**inputs(slice(N)), "attention_mask": MASK}, Y[:N])}, "30 of 'input_ids' and 42 of 'attention_ma"),
        ({"pool": (inputs(slice(N)), Y[:9])}, "must have the same number of samples"),
        ({"pool": ({}, Y[:N])}, "a dictionary with no keys, expected arrays by the names"),
        (
            {"pool": (inputs(slice(N), ages=AGES[:, None][:, :0]), Y[:N])},
            r"'ages' of one sample has shape \(0,\), no num",
        ),
        ({"pool": ({0: IDS[:N]}, Y[:N])}, "a dictionary with the keys 0, expected arrays by the names"),
        ({"pool": ({"input_ids": 3}, Y[:N])}, "'input_ids' is a single number, expected an array"),
        ({"pool": (inputs(slice(N), attention_mask=MASK.astype(np.uint8)), Y[:N])}, "give a mask as bool"),
        ({"pool": (inputs(slice(N), ages=AGES * np.nan), Y[:N])}, "'ages' contain NaN or infinity, first in sample 0"),
        (
            {"pool": (inputs(slice(N), ages=AGES, input_ids=HUGE), Y[:N])},
            "as large as 16777217, expected at most 16777",
        ),
        ({"trim": lambda x, y: (x, y)}, "trim takes samples of one input, found 'input_ids', 'attention_mask'"),
    ],
)
def test_inputs_that_do_not_fit_are_said(parts, message):
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        task(**parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        (WithoutMask, "unexpected keyword argument 'attention_mask'; name the inputs of a sample as the arguments"),
        (
            "mlp",
            "student 'mlp' takes one array, but samples of task 'own' have the inputs 'input_ids', 'attention_mask'",
        ),
    ],
)
def test_networks_that_do_not_take_the_names_are_said(student, message):
    with pytest.raises(ValueError, match=message):
        TeachEnv(task=task(), student=student, **SMALL)


def test_what_is_predicted_has_the_names_too():
    env = TeachEnv(task=task(), student=Reader, **SMALL)
    env.reset(seed=0)
    with pytest.raises(
        ValueError, match="samples of task 'own' to predict: inputs have the keys 'input_ids', expected"
    ):
        env.predict(inputs(slice(3), attention_mask=None))
    other = TeachEnv(horizon=2)
    other.reset(seed=0)
    with pytest.raises(ValueError, match=r"inputs are a dictionary of 'input_ids'.* the pool's are one array"):
        other.predict(inputs())
