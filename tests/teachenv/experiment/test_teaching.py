"""What watchers keep of a teacher's actions."""

import numpy as np
import pytest

from teachenv import TeachVectorEnv
from teachenv.experiment.teaching import Controlled, Moment, Moved, Playback, teach
from teachenv.tasks.synthetic import make_synthetic

SETTINGS = {"learning_rate": 0.05, "momentum": 0.8, "weight_decay": 0.01, "lr_schedule": "linear"}


def test_settings_of_the_optimiser_are_kept_as_actions_leave_them() -> None:
    control = ("learning-rate", "momentum", "weight-decay")
    env = TeachVectorEnv(2, horizon=4, steps_per_action=2, batch_size=8, dev_size=40, control=control, **SETTINGS)
    actions = np.array([[[0.5, -0.3, 1.0], [0.0, 0.0, 0.0]], [[-1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]]], dtype=np.float32)
    controlled, rates = Controlled(), []

    def watch(moment: Moment) -> None:
        controlled(moment)
        infos = moment.infos.get("final_info", moment.infos)
        rates.append(float(np.mean(infos["learning_rate"])))

    teach(env, Playback(list(actions)), seed=0, watch=watch)
    kept = controlled.settings
    # The environment says the rate of an action's last step, at 3/4 and 1/4 of the schedule; kept is that of its first.
    assert kept["learning_rate"] == pytest.approx([0.05 * (10**0.5 + 1) / 2, 0.05 * 0.5 * 0.1], rel=1e-3)
    assert rates == pytest.approx([kept["learning_rate"][0] * 0.75, kept["learning_rate"][1] * 0.5], rel=1e-3)
    assert kept["momentum"] == pytest.approx([(1 - 0.2**0.7 + 0.8) / 2, 1 - 0.2**2], rel=1e-3)
    assert kept["weight_decay"] == pytest.approx([(0.1 + 0.01) / 2, 0.01], rel=1e-3)


def test_how_often_samples_are_augmented_is_kept() -> None:
    task = make_synthetic(pool_size=40, test_size=4)
    env = TeachVectorEnv(2, task=task, student="mlp", horizon=2, batch_size=4, dev_size=8, control="augmentation")
    actions = np.array([[[0.5], [-1.0]], [[0.0], [0.0]]], dtype=np.float32)
    controlled, moved = Controlled(), Moved()

    def watch(moment: Moment) -> None:
        controlled(moment)
        moved(moment)

    teach(env, Playback(list(actions)), seed=0, watch=watch)
    assert controlled.settings == {"augmentation": pytest.approx([0.75, 1.0])}
    assert moved.mean == pytest.approx(0.375)


def test_of_actions_that_set_the_loss_alone_no_settings_are_kept() -> None:
    controlled, env = Controlled(), TeachVectorEnv(2, horizon=2, batch_size=8, dev_size=40)
    actions = [np.zeros((2, 100), dtype=np.float32)] * 2
    teach(env, Playback(actions), seed=0, watch=controlled)
    assert controlled.settings == {}
