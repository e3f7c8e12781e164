"""Options of a part that are written together are those that are written apart."""

import numpy as np
import pytest

from teachenv import TeachEnv, TeachVectorEnv
from teachenv.parts import spelled_out

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
        ({"student": {"name": "mlp", "hidden": [8]}, "student_kwargs": {}}, "student_kwargs is given twice"),
        ({"optimizer": {"name": "sgd", "momentum": 0.5}, "momentum": 0.5}, "momentum is given twice"),
        ({"optimizer": {"name": "adam", "momentum": 0.5}}, "momentum=0.5 has no effect with optimizer='adam'"),
    ],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TeachEnv(**SMALL, **settings)


def test_unknown_options_are_refused_by_the_part():
    with pytest.raises(TypeError, match="hiden"):
        TeachEnv(**SMALL, student={"name": "mlp", "hiden": [8]})


def test_other_settings_stay_as_they_are():
    kwargs = {"student": "mlp", "learning_rate": 0.1}
    assert spelled_out(kwargs) == kwargs
