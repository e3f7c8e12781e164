"""What is measured of the weights that a teacher gives to samples."""

from typing import Any

import numpy as np
import pytest

import meta
from teachenv import TeachEnv, TeachVectorEnv
from teachenv.experiment.setting import OneByOne
from teachenv.experiment.teaching import teach
from teachenv.experiment.weighing import Weighed

OPTIONS: dict[str, Any] = {
    "label_noise": 0.4,
    "batch_size": 8,
    "horizon": 6,
    "pool_size": 60,
    "dev_size": 20,
    "train_on": "pool",
}


class Knows:
    """A teacher that sees which labels are wrong, and gives these samples another action."""

    def __init__(self, env: TeachVectorEnv | TeachEnv, action: float) -> None:
        self.env, self.action = env, action

    def predict(self, observation: Any, deterministic: bool = True) -> tuple[np.ndarray, None]:
        env = self.env
        wrong = env.problem.rows.mislabelled
        if isinstance(env, TeachEnv):
            seen = wrong[env.dynamics.indices(env.episode, env.student.step)]
        elif env.problem.dynamics.loss.of_pool:
            seen = wrong.expand(env.num_envs, -1)
        else:
            seen = wrong[env.dynamics.indices(env.episodes, env.students.step)]
        return self.action * seen.numpy().astype(np.float32), None


@pytest.mark.parametrize("loss", ["sample-weights", "data-weights"])
@pytest.mark.parametrize(("action", "area"), [(-0.5, 1.0), (0.5, 0.0), (0.0, 0.5)])
def test_weights_that_follow_the_labels_are_seen_to_do_so(loss: str, action: float, area: float) -> None:
    env = TeachVectorEnv(3, task="digits", loss=loss, **OPTIONS)
    weighed = Weighed(Knows(env, action), env)
    teach(env, weighed, 0, watch=weighed)
    measures = weighed.measures
    assert measures["wrong_label_auc"] == area
    # About 40 % of the samples have w − 1 = action.
    assert measures["weight_rms"] == pytest.approx(abs(action) * 0.4**0.5, rel=0.15)


def test_students_one_by_one_give_what_students_together_give() -> None:
    loss = {"name": "sample-weights", "normalise": True}
    single, many = TeachEnv(task="digits", loss=loss, **OPTIONS), TeachVectorEnv(3, task="digits", loss=loss, **OPTIONS)
    one_by_one = OneByOne(single, 3)
    apart, together = Weighed(Knows(single, -1.0), one_by_one), Weighed(Knows(many, -1.0), many)
    teach(one_by_one, apart, 4, watch=apart)
    teach(many, together, 4, watch=together)
    assert apart.measures == pytest.approx(together.measures)
    # Weights of right labels are raised to a mean of 1, wrong ones are 0.
    assert apart.measures["weight_rms"] > 0.7
    assert apart.measures["wrong_label_auc"] == 1.0


def test_held_weights_belong_to_the_samples_of_each_step() -> None:
    env = TeachVectorEnv(2, task="digits", loss="data-weights", steps_per_action=6, **OPTIONS)
    weighed = Weighed(Knows(env, -1.0), env)
    teach(env, weighed, 0, watch=weighed)
    assert weighed.measures["wrong_label_auc"] == 1.0


def test_without_weights_or_wrong_labels_there_is_nothing_to_measure() -> None:
    bilinear = TeachVectorEnv(2, task="digits", horizon=2)
    teacher = meta.RandomTeacher("RandomPolicy", bilinear)
    weighed = Weighed(teacher, bilinear)
    teach(bilinear, weighed, 0, watch=weighed)
    assert weighed.measures == {}
    clean = TeachVectorEnv(2, task="digits", horizon=2, loss="sample-weights")
    weighed = Weighed(meta.RandomTeacher("RandomPolicy", clean), clean)
    teach(clean, weighed, 0, watch=weighed)
    assert list(weighed.measures) == ["weight_rms"]
    assert weighed.measures["weight_rms"] == pytest.approx(1 / 3**0.5, rel=0.1)


def test_weights_that_actions_do_not_set_are_not_measured() -> None:
    env = TeachVectorEnv(2, loss="sample-weights", control="learning-rate", horizon=2, batch_size=8, dev_size=40)
    weighed = Weighed(meta.RandomTeacher("RandomPolicy", env), env)
    teach(env, weighed, 0, watch=weighed)
    assert weighed.measures == {}
