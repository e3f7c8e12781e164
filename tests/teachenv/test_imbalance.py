"""Class imbalance: how many samples of each class a pool keeps, and what stays as it is."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from teachenv import TeachEnv
from teachenv.tasks import make_task
from teachenv.tasks.base import Task


def counts(task: Task) -> list[int]:
    return torch.bincount(task.pool[1], minlength=task.num_outputs).tolist()


def test_classes_fall_geometrically_from_the_first_to_the_last() -> None:
    labels = torch.arange(10).repeat(200)
    inputs = torch.rand(len(labels), 3)
    task = Task("points", "made-up", (inputs, labels), (inputs[:5], labels[:5]), 10).with_imbalance(50, 0)
    assert task.name == "points-imbalanced-50"
    assert counts(task) == [round(200 * 50 ** (-c / 9)) for c in range(10)]
    assert counts(task)[0] == 50 * counts(task)[-1]


def test_classes_of_unequal_sizes_give_as_many_as_the_scarcest_allows() -> None:
    labels = torch.tensor([0] * 40 + [1] * 6 + [2] * 9)
    inputs = torch.rand(len(labels), 3)
    task = Task("points", "made-up", (inputs, labels), (inputs[:5], labels[:5]), 3)
    assert counts(task.with_imbalance(4, 0)) == [12, 6, 3]
    # The last class has one sample, however rare it is.
    assert counts(task.with_imbalance(1e9, 0)) == [40, 1, 1]


def test_the_kept_samples_are_a_function_of_the_seed_and_keep_their_labels() -> None:
    digits = make_task("digits")
    known = {row.numpy().tobytes(): label for row, label in zip(*digits.pool, strict=True)}
    one, same, other = (digits.with_imbalance(20, seed) for seed in (0, 0, 1))
    assert torch.equal(one.pool[0], same.pool[0])
    assert not torch.equal(one.pool[0], other.pool[0])
    assert all(known[row.numpy().tobytes()] == label for row, label in zip(*one.pool, strict=True))
    assert torch.equal(one.test[0], digits.test[0])
    assert digits.with_imbalance(1, 0) is digits


def test_a_trusted_dev_set_is_drawn_before_and_noise_comes_after() -> None:
    options = {"trusted_dev": 100, "label_noise": 0.4, "batch_size": 16}
    env = gym.make("TeachDigits-v0", imbalance=50, **options).unwrapped
    balanced = TeachEnv(task="digits", **options).task
    assert env.task.name == "digits-dev-100-imbalanced-50-noisy-40"
    assert balanced.dev is not None
    assert torch.equal(env.task.dev[1], balanced.dev[1])
    rows = env.problem.rows
    kept = len(env.task.pool[0])
    true = torch.bincount(rows.true_targets[:kept], minlength=10)
    assert true[0] / true[-1] > 30
    assert int(rows.mislabelled.sum()) == round(0.4 * kept)
    assert not bool(rows.mislabelled[kept:].any())


def test_lengths_go_with_their_samples() -> None:
    labels = torch.arange(2).repeat(10)
    inputs = torch.arange(20).float()[:, None]
    task = Task("points", "made-up", (inputs, labels), (inputs[:2], labels[:2]), 2, lengths=np.arange(20))
    kept = task.with_imbalance(5, 0)
    assert kept.lengths is not None
    assert kept.lengths.tolist() == kept.pool[0][:, 0].tolist()


@pytest.mark.parametrize(
    ("labels", "classes", "factor", "error", "message"),
    [
        ([0, 1, 0, 1], 2, 0.5, ValueError, "imbalance is 0.5: expected at least 1"),
        ([0, 1, 0, 1], 2, float("nan"), ValueError, "expected at least 1"),
        ([0, 1, 0, 1], 3, 2, ValueError, "found 2 classes with samples of 3"),
        ([0, 0, 0, 0], 1, 2, ValueError, "at least 2 classes"),
    ],
)
def test_what_cannot_be_made_imbalanced_is_refused(labels, classes, factor, error, message) -> None:
    inputs = torch.rand(4, 3)
    task = Task("points", "made-up", (inputs, labels), (inputs, labels), classes)
    with pytest.raises(error, match=message):
        task.with_imbalance(factor, 0)


def test_targets_that_are_no_labels_are_refused() -> None:
    segmentation = make_task("segmentation", pool_size=4)
    with pytest.raises(ValueError, match="have many labels; leave it at 1, found 50"):
        segmentation.with_imbalance(50, 0)
