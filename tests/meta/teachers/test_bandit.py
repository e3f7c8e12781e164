"""The bandit: every arm once, then the best by its upper bound; what it learned is its policy."""

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import meta
from teachenv import TeachEnv, TeachVectorEnv

SMALL = {"horizon": 4, "steps_per_action": 2, "batch_size": 8, "dev_size": 40, "learning_rate": 0.01}


def bandit(students=4, arms=5, control="learning-rate", **options):
    env = TeachVectorEnv(students, control=control, **SMALL)
    return meta.Bandit("ArmsPolicy", env, policy_kwargs={"arms": arms}, seed=0, **options)


def test_every_arm_is_tried_and_then_the_best() -> None:
    teacher = bandit(exploration=0.0).learn(4 * 2 * 4)
    arms = teacher.policy.arms
    counts, totals = (tensor.numpy() for tensor in teacher.policy.tried)
    assert counts.sum() == 16
    assert counts.min() >= 1
    best = (totals / counts).argmax()
    assert counts[best] == counts.max()
    action, _ = teacher.predict(np.zeros((3, *teacher.observation_space.shape), dtype=np.float32))
    assert action == pytest.approx(np.repeat(arms[[best]], 3, 0))
    assert arms[best, 0] > 0  # such students learn too slowly


@pytest.mark.parametrize("exploration", [0.0, 0.2, 2.0])
def test_students_of_one_batch_have_the_arms_of_the_largest_bounds(exploration) -> None:
    teacher = bandit(students=6, arms=3, exploration=exploration)
    counts, totals = teacher.policy.tried
    counts += 1
    totals += counts.new_tensor([0.5, 0.6, -1.0])
    means, known, chosen = np.array([0.5, 0.6, -1.0]), np.ones(3), []
    for _ in range(6):
        place = int((means + exploration * np.sqrt(2 * np.log(known.sum()) / known)).argmax())
        known[place] += 1
        chosen.append(place)
    assert teacher._choose(6).tolist() == chosen
    assert len({*chosen}) == {0.0: 1, 0.2: 2, 2.0: 3}[exploration]


def test_arms_lie_evenly_in_the_box() -> None:
    of_one = bandit(arms=20).policy.arms
    assert of_one[0] == 0
    assert np.diff(np.sort(np.concatenate([[-1.0], of_one[:, 0], [1.0]]))).max() < 0.25  # 0.1 of an exact grid
    of_two = bandit(arms=40, control=("learning-rate", "momentum")).policy.arms
    assert (of_two[0] == 0).all()
    corners = np.stack([np.sign(of_two[1:, 0]), np.sign(of_two[1:, 1])], 1)
    assert np.unique(corners, axis=0, return_counts=True)[1].min() >= 8


def test_a_wrong_option_is_named() -> None:
    with pytest.raises(ValueError, match="exploration must be"):
        bandit(exploration=-1.0)
    with pytest.raises(ValueError, match="arms must be"):
        bandit(arms=0)


def test_returns_need_no_monitor() -> None:
    tried = []
    for monitored in (lambda envs: envs, VecMonitor):
        envs = DummyVecEnv([lambda: TeachEnv(control="learning-rate", **SMALL)])
        teacher = meta.Bandit("ArmsPolicy", monitored(envs), policy_kwargs={"arms": 2}, seed=0).learn(8)
        tried.append(teacher.policy.tried[1])
    np.testing.assert_array_equal(*tried)
    assert tried[0].any()
