"""What a teacher sees of the samples that its next action weighs."""

import math
import pickle

import numpy as np
import pytest
import torch

from teachenv import TeachEnv, TeachVectorEnv
from teachenv.samples import LabelledSamples
from teachenv.tasks import Task

BATCH, CLASSES = 5, 3
OPTIONS = {
    "student": "mlp",
    "loss": "sample-weights",
    "observe_samples": True,
    "batch_size": BATCH,
    "dev_size": 10,
    "train_size": 10,
    "horizon": 6,
    "dtype": "float64",
}


def task() -> Task:
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(40, 4)), np.arange(40) % CLASSES
    return Task("points", "made-up", (inputs[:30], targets[:30]), (inputs[30:], targets[30:]), CLASSES)


def make(**changes) -> TeachEnv:
    return TeachEnv(**({"task": task()} | OPTIONS | changes))


def of_samples(observation: np.ndarray) -> dict[str, np.ndarray]:
    """The numbers of each sample by field, of the last coordinates of an observation."""
    fields = LabelledSamples.fields
    blocks = observation[..., -len(fields) * BATCH :].reshape(*observation.shape[:-1], len(fields), BATCH)
    return {name: blocks[..., i, :] for i, name in enumerate(fields)}


def roll(env, seed=1):
    observations = [env.reset(seed=seed)[0]]
    rng = np.random.default_rng(2)
    for _ in range(6):
        action = rng.uniform(-1, 1, env.action_space.shape)
        observations.append(env.step(action)[0])
    return np.array(observations)


def test_fields_are_what_they_are_called():
    env = make()
    observation, _ = env.reset(seed=1)
    rng, seen = np.random.default_rng(3), {}
    names = env.interface.observation_fields
    assert len(names) == len(observation) == 3 + CLASSES + len(LabelledSamples.fields) * BATCH
    assert names[3 + CLASSES] == "label_probability_0"
    assert names[-1] == f"label_frequency_{BATCH - 1}"
    for t in range(5):
        indices = env.episode.batches[t]
        inputs, labels = env.task.pool[0][indices], env.task.pool[1][indices]
        p = torch.softmax(env.predict(inputs), 1)
        of_label = p[torch.arange(BATCH), labels]
        others = torch.stack([max(row[j] for j in range(CLASSES) if j != y) for row, y in zip(p, labels, strict=True)])
        losses = (1 - of_label).tolist()
        earlier = [seen.get(i, []) for i in indices.tolist()]
        wanted = {
            "label_probability": of_label,
            "margin": (1 + of_label - others) / 2,
            "entropy": -(p * p.log()).sum(1) / math.log(CLASSES),
            "earlier_loss": [np.mean(e) if e else loss for e, loss in zip(earlier, losses, strict=True)],
            "loss_change": [(1 + loss - e[-1]) / 2 if e else 0.5 for e, loss in zip(earlier, losses, strict=True)],
            "label_frequency": [float((env.task.pool[1] == y).double().mean()) for y in labels],
        }
        shown = of_samples(observation)
        for name, values in wanted.items():
            np.testing.assert_allclose(shown[name], values, rtol=1e-9, err_msg=f"{name} at step {t}")
        for i, loss in zip(indices.tolist(), losses, strict=True):
            seen.setdefault(i, []).append(loss)
        observation, *_ = env.step(rng.uniform(-1, 1, BATCH))
    assert max(map(len, seen.values())) > 1  # ten samples in five minibatches: some came back


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_many_students_see_what_each_would(path):
    envs = TeachVectorEnv(2, path=path, task=task(), **OPTIONS)
    first = envs.reset(seed=[1, 2])[0]
    rng = np.random.default_rng(2)
    actions = [rng.uniform(-1, 1, BATCH) for _ in range(5)]
    together = [first] + [envs.step(np.stack([action, action]))[0] for action in actions]
    for row, seed in enumerate((1, 2)):
        env = make()
        alone = [env.reset(seed=seed)[0]] + [env.step(action)[0] for action in actions]
        np.testing.assert_allclose([o[row] for o in together], alone, rtol=1e-9)


def test_what_was_seen_goes_with_a_snapshot():
    env, other = make(), make()
    env.reset(seed=1)
    for _ in range(3):
        env.step(np.full(BATCH, 0.5))
    other.reset(seed=9)
    other.set_state(pickle.loads(pickle.dumps(env.get_state())))
    for _ in range(3):
        assert np.array_equal(env.step(np.zeros(BATCH))[0], other.step(np.zeros(BATCH))[0])


def test_seeing_samples_changes_nothing_else():
    plain, seeing = roll(make(observe_samples=False)), roll(make())
    assert np.array_equal(plain, seeing[:, : plain.shape[1]])
    assert ((seeing >= 0) & (seeing <= 1)).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "bilinear"}, "it goes with losses whose actions weigh a minibatch's samples"),
        ({"loss": "data-weights"}, "it goes with losses whose actions weigh a minibatch's samples"),
        ({"steps_per_action": 2}, "steps_per_action=1, found 2"),
        ({"loss": "distillation", "teacher": "mlp"}, "samples are observed anyway"),
        ({"observe_samples": "yes"}, "observe_samples must be"),
        ({"task": "segmentation", "task_kwargs": {"image_size": [32, 32]}, "student": "fcn"}, "has others"),
    ],
)  # fmt: skip
def test_where_samples_cannot_be_seen_it_says_so(changes, message):
    with pytest.raises(ValueError, match=message):
        make(**changes)
