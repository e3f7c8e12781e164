"""What every named task does that needs no files; those of files are in `test_data.py` and `test_image_folder.py`."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from teachenv import TeachEnv
from teachenv.registration import ENVIRONMENTS
from teachenv.tasks import TASKS, make_task

OF_FILES = ("mnist", "image-folder")
OPTIONS = {
    "detection": {"image_size": 32},
    "segmentation": {"image_size": [24, 24]},
    "cifar10": {"dataset": "synthetic"},
    "cifar100": {"dataset": "synthetic"},
}
POOL = 30


def task_of(name, split_seed=0, **options):
    return make_task(name, pool_size=POOL, split_seed=split_seed, **OPTIONS.get(name, {}), **options)


def samples(split):
    """Each sample as bytes, so that equal ones are found."""
    return [inputs.numpy().tobytes() for inputs in split[0]]


@pytest.mark.parametrize("name", [name for name in TASKS if name not in OF_FILES])
def test_a_task_is_a_pool_and_a_disjoint_test_split_drawn_by_a_seed(name):
    task, again, other = task_of(name), task_of(name), task_of(name, split_seed=1)
    assert len(task.pool[0]) == len(task.pool[1]) == POOL
    assert not {*samples(task.pool)} & {*samples(task.test)}
    for split, repeated in ((task.pool, again.pool), (task.test, again.test)):
        assert all(torch.equal(a, b) for a, b in zip(split, repeated, strict=True))
    assert samples(task.pool) != samples(other.pool)
    task.pool[0].zero_()  # a task owns its tensors: writing to one does not reach the next
    assert samples(task_of(name).pool) == samples(again.pool)


@pytest.mark.parametrize("name", [name for name in TASKS if name not in OF_FILES])
def test_what_a_task_does_not_know_is_refused(name, tmp_path):
    with pytest.raises(TypeError, match=f"task '{name}'"):
        task_of(name, no_such_option=1)
    with pytest.raises(ValueError, match=r"found 0|is 0"):
        make_task(name, pool_size=0, data_root=tmp_path, **OPTIONS.get(name, {}))


STUDENTS = {
    "detection": "ssd",
    "segmentation": "fcn",
    "translation": "lstm",
    "language": "causal-transformer",
    "cifar10": "lenet",
    "cifar100": "lenet",
}


@pytest.mark.parametrize("name", [name for name in TASKS if name not in OF_FILES])
def test_the_score_has_one_name_whatever_the_objective(name):
    """In observations, infos and evaluations."""
    seen = []
    options = {"student": STUDENTS.get(name, "mlp"), "dev_size": 4, "batch_size": 4, "horizon": 1}
    for objective in ("accuracy", "likelihood"):
        env = TeachEnv(task=task_of(name), objective=objective, **options)
        info = env.reset(seed=0)[1]
        values = env.evaluate("dev")
        score = env.interface.observation_fields[2]
        assert values[score] == pytest.approx(info[score])
        assert values["dev_error"] == pytest.approx(1 - values[score])
        assert info["objective"] >= 0 if objective == "accuracy" else info["objective"] <= 0
        seen.append((env.interface.observation_fields, sorted(info), sorted(values)))
    assert seen[0] == seen[1]


OF_IDS = {
    "TeachCIFAR-v0": {"dataset": "synthetic", "student": "lenet"},
    "TeachCIFAR100-v0": {"dataset": "synthetic", "student": "lenet"},
    "TeachDetection-v0": {"task_kwargs": {"image_size": 32}},
    "TeachSegmentation-v0": {"task_kwargs": {"image_size": [24, 24]}},
    "TeachTranslation-v0": {"student_kwargs": {"width": 4}, "steps_per_action": 1},
}


# The language task brings a trusted dev set: see `test_language_task.py`.
@pytest.mark.parametrize(
    "name", [name for name, kwargs in ENVIRONMENTS.items() if kwargs["task"] not in (*OF_FILES, "language")]
)
def test_every_id_has_a_trusted_dev_set_if_asked_for(name):
    options = {"pool_size": POOL, "trusted_dev": 6, "batch_size": 4, "horizon": 2, **OF_IDS.get(name, {})}
    for learn_from, dev, train in (("pool", 6, POOL - 6), ("dev", 3, 3), ("pool and dev", 3, POOL - 3)):
        if learn_from == "dev":
            options["batch_size"] = 3
        env = gym.make(name, learn_from=learn_from, **options).unwrapped
        observation, info = env.reset(seed=0)
        assert observation in env.observation_space
        assert (len(env.episode.dev), len(env.episode.train)) == (dev, train)
        assert {*samples(env.task.dev)}.isdisjoint(samples(env.task.pool))
        envs = gym.make_vec(name, num_envs=2, learn_from=learn_from, **options)
        envs.reset(seed=0)
        action = np.full(env.action_space.shape, 0.1, env.action_space.dtype)
        _, reward, *_, info = env.step(action)
        _, rewards, *_, infos = envs.step(np.stack([action, action]))
        assert rewards[0] == pytest.approx(reward, abs=1e-4)
        assert infos["train_loss"][0] == pytest.approx(info["train_loss"], rel=1e-3)
