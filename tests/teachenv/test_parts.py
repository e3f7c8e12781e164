"""Options of a part that are written together are those that are written apart."""

import copy

import numpy as np
import pytest
from torch import nn

from teachenv import TeachEnv, TeachVectorEnv
from teachenv.experiment.methods import Method
from teachenv.experiment.setting import Configuration, Setting
from teachenv.parts import spelled_out
from teachenv.settings import plain

SMALL = {"horizon": 2, "batch_size": 4, "dev_size": 8}


@pytest.mark.parametrize(
    ("together", "apart"),
    [
        (
            {"student": {"name": "mlp", "hidden": [8]}, "loss": {"name": "mixture"}},
            {"student": "mlp", "student_kwargs": {"hidden": [8]}, "loss": "mixture"},
        ),
        (
            {"optimizer": {"name": "sgd", "momentum": 0.5, "nesterov": True, "learning_rate": 0.3}},
            {"optimizer": "sgd", "momentum": 0.5, "nesterov": True, "learning_rate": 0.3},
        ),
        (
            {"optimizer": {"name": "adam", "betas": (0.8, 0.9)}, "weight_decay": 0.1},
            {"optimizer": "adam", "optimizer_kwargs": {"betas": (0.8, 0.9)}, "weight_decay": 0.1},
        ),
        (
            {"optimizer": {"name": "rmsprop", "momentum": 0.5, "learning_rate": 0.01}},
            {"optimizer": "rmsprop", "optimizer_kwargs": {"momentum": 0.5}, "learning_rate": 0.01},
        ),
        (
            {"loss": "distillation", "teacher": {"name": "mlp", "hidden": [8], "learning_rate": 0.2}},
            {"loss": "distillation", "teacher": "mlp", "teacher_kwargs": {"hidden": [8]}, "teacher_learning_rate": 0.2},
        ),
        (
            {"task": {"name": "digits", "pool_size": 500, "split_seed": 3, "label_noise": 0.2}},
            {"task": "digits", "pool_size": 500, "split_seed": 3, "label_noise": 0.2},
        ),
        ({"task": {"name": "digits"}, "lr_schedule": {"name": "step"}}, {"lr_schedule": {"name": "step"}}),
    ],
)
def test_options_of_a_part_are_its_settings(together, apart):
    one, other = TeachEnv(**SMALL, **together), TeachEnv(**SMALL, **apart)
    assert one.problem.fingerprint == other.problem.fingerprint
    assert TeachVectorEnv(2, **SMALL, **together).problem.settings == other.problem.settings
    rewards = []
    for env in (one, other):
        env.reset(seed=0)
        rewards.append(env.step(np.zeros(env.action_space.shape, dtype=np.float32))[1])
    assert rewards[0] == rewards[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": {"hidden": [8]}}, r"student=.* has no name: expected \{'name'"),
        ({"student": {"name": 3}}, "has no name"),
        ({"student": {"name": nn.Linear}}, "names no student.*a student of your own is given alone"),
        ({"optimizer": {"momentum": 0.5}}, "with the name of an optimizer"),
        ({"student": {"name": "mlp", "hidden": [8]}, "student_kwargs": {}}, "student_kwargs is given twice"),
        ({"optimizer": {"name": "sgd", "momentum": 0.5}, "momentum": 0.5}, "momentum is given twice"),
        ({"optimizer": {"name": "adam", "momentum": 0.5}}, "momentum=0.5 has no effect with optimizer='adam'"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeachEnv(**SMALL, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student": {"name": "mlp", "hiden": [8]}}, "hiden"),
        ({"optimizer": {"name": "sgd", "lr": 0.1}}, "'lr': expected one of 'learning_rate', 'momentum', 'nesterov', "),
        ({"optimizer": {"name": "adam", "beta": 0.1}}, "'beta', did you mean 'betas'"),
        ({"optimizer": "sgd", "optimizer_kwargs": {"momentum": 0.5}}, "an option of the environment itself"),
    ],
)
def test_unknown_options_are_refused_by_the_part(settings, message):
    with pytest.raises(TypeError, match=message):
        TeachEnv(**SMALL, **settings)


@pytest.mark.parametrize(
    ("settings", "path"),
    [
        ({"student": {"name": "mlp", "hidden": [16]}}, ("student", "hidden")),
        ({"student_kwargs": {"hidden": [16]}}, ("student_kwargs", "hidden")),
        ({"optimizer": {"name": "adam", "betas": [0.5, 0.9]}}, ("optimizer", "betas")),
        ({"lr_schedule": {"name": "step", "milestones": [1, 2]}}, ("lr_schedule", "milestones")),
        ({"defaults": {"student": {"name": "mlp", "hidden": [16]}}}, ("defaults", "student", "hidden")),
    ],
)
def test_lists_of_the_caller_are_copied(settings, path):
    env = TeachEnv(**SMALL, **copy.deepcopy(settings))
    expected = env.problem.fingerprint
    env = TeachEnv(**SMALL, **settings)
    values = settings
    for name in path:
        values = values[name]
    values[0] = 0
    assert env.problem.fingerprint == expected
    assert TeachVectorEnv.like(env, 2).problem.fingerprint == expected


def test_other_settings_stay_as_they_are():
    kwargs = {"student": "mlp", "learning_rate": 0.1}
    assert spelled_out(kwargs) == kwargs


def test_comparisons_tune_parts_that_are_written_together():
    together = {"name": "adam", "betas": [0.5, 0.9], "learning_rate": 0.3}
    setting = Setting(None, {"task": "wine", "optimizer": together, **SMALL})

    def settings(**tuned):
        chosen = {name: plain(name, value) for name, value in tuned.items()}
        return setting.make_single(Method(), Configuration(chosen)).problem.settings

    found = settings(learning_rate=0.01)
    assert (found.optimizer, found.learning_rate, found.optimizer_kwargs) == ("adam", 0.01, {"betas": [0.5, 0.9]})
    found = settings(optimizer={"name": "sgd", "momentum": 0.5})
    assert (found.optimizer, found.momentum, found.optimizer_kwargs) == ("sgd", 0.5, {})
    with pytest.raises(TypeError, match="'lr'"):
        settings(optimizer={"name": "sgd", "lr": 0.1})
