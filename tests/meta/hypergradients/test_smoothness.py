"""`meta.smoothness` tells gradients that teachers learned by from those that misled them."""

import numpy as np
import pytest
from torch import nn

import meta
import teachenv
from meta.hypergradients.repairs import repairs_of
from teachenv import TeachEnv

SMALL = {"students": 3, "radii": (1e-4, 1e-3, 1e-2)}
LINEAR = {"learning_rate": 0.4, "horizon": 40, "steps_per_action": 5, "lr_schedule": "linear"}
NETWORK = {"loss": "dynamic-network", "label_noise": 0.4, "learning_rate": 0.2, "horizon": 40, "steps_per_action": 40}


def test_a_calm_training_is_usable_and_its_small_steps_are_as_predicted() -> None:
    report = meta.smoothness(TeachEnv(**LINEAR), **SMALL)
    assert report.radius >= 1e-3
    assert report.growth < 10
    assert report.jumps < 0.01
    np.testing.assert_allclose(report.changed[:2], report.predicted[:2], rtol=0.3)
    assert report.predicted[0] > 0
    assert "Usable for steps of up to" in report.verdict
    assert not report.repairs
    assert str(report).startswith(report.verdict)
    figure = report.plot()
    assert [axis.get_title() for axis in figure.axes] == ["change of J, dashed as predicted", "gradient of each action"]


def test_a_chaotic_training_is_not_and_what_calms_it_is_found() -> None:
    hot = {"loss": "bilinear-sigmoid", "loss_kwargs": {"scale": 0.5}, "learning_rate": 3.2}
    report = meta.smoothness(TeachEnv(**hot, horizon=96, steps_per_action=12), **SMALL)
    assert not report.usable
    assert report.growth > 100
    assert report.last_steps < 96
    assert "chaotic" in report.verdict
    assert report.repairs["a quarter of the learning rate"] > 0
    assert "Usable steps with one thing changed: " in report.verdict


def test_kinks_of_the_loss_network_are_jumps() -> None:
    kinked, smooth = (
        meta.smoothness(TeachEnv(**NETWORK, loss_kwargs={"activation": activation}), **SMALL, repairs=False)
        for activation in ("leaky-relu", "leaky-swish")
    )
    assert kinked.jumps > 0.05 > 0.01 > smooth.jumps
    assert "has kinks" in kinked.verdict
    assert "kinks" not in smooth.verdict


def test_rounding_of_the_objective_is_neither_a_kink_nor_a_change() -> None:
    tiny = {"horizon": 2, "batch_size": 8, "dev_size": 20}
    slow, slower = (
        meta.smoothness(TeachEnv(**tiny, learning_rate=rate), students=2, radii=(1e-4, 1e-1), repairs=False)
        for rate in (1e-5, 1e-12)
    )
    assert slow.predicted[0] < slow.rounding  # whatever changes there
    assert slow.radius == 1e-1
    assert not slower.usable
    assert slow.jumps == slower.jumps == 0
    assert "less than its rounding" in slower.verdict


def test_it_is_a_function_of_the_environment_and_the_seed() -> None:
    env = TeachEnv(**LINEAR)
    env.reset(seed=7)
    before = env.get_state()
    reports = [meta.smoothness(env, students=2, radii=(1e-3,), seed=seed) for seed in (0, 0, 1)]
    assert reports[0].changed == reports[1].changed != reports[2].changed
    assert str(env.get_state()) == str(before)


def test_repairs_are_of_what_the_environment_has() -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))

    changes = repairs_of(TeachEnv(student=network, horizon=8, steps_per_action=8).problem)
    assert set(changes) == {
        "a quarter of the learning rate", "a linear schedule", "a quarter of the steps", "five times the temperature",
        "smooth activations", "group norm for batch norm",
    }  # fmt: skip
    for name, change in changes.items():
        TeachEnv(defaults={"student": network, "horizon": 8, "steps_per_action": 8, **change}).reset(seed=0)
        if "student" in change:
            kinds = {type(module) for module in change["student"]().modules()}
            assert kinds >= ({nn.SiLU} if name == "smooth activations" else {nn.GroupNorm})
    assert "a linear schedule" not in repairs_of(TeachEnv(lr_schedule="linear").problem)
    assert "a smooth loss network" in repairs_of(TeachEnv(**NETWORK).problem)


def test_a_teacher_warns_once_of_steps_that_its_gradient_cannot_mean() -> None:
    students = teachenv.TeachVectorEnv(
        2, loss="bilinear-sigmoid", loss_kwargs={"scale": 0.5}, learning_rate=3.2, horizon=96, steps_per_action=12
    )
    teacher = meta.RMD("AttentionPolicy", students, seed=0)
    with pytest.warns(UserWarning, match=r"predicts that J changes by .*too large for the gradient") as caught:
        teacher.learn(36)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"students": 1}, ValueError, "students"),
        ({"radii": (1e-2, 1e-3)}, ValueError, "numbers that ascend"),
        ({"radii": ()}, ValueError, "numbers that ascend"),
        ({"radii": (float("nan"),)}, ValueError, "numbers that ascend"),
        ({"env": "CartPole-v1"}, TypeError, "found CartPoleEnv, expected a TeachEnv"),
    ],
)
def test_what_cannot_be_measured_is_said(options, error, message) -> None:
    with pytest.raises(error, match=message):
        meta.smoothness(options.pop("env", "TeachDigits-v0"), **options)
