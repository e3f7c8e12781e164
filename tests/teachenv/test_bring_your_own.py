"""A task, a measure, a network and a loss family that the library does not know, defined here."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from sklearn.datasets import load_diabetes
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import nn

import teachenv


class SquaredError(teachenv.Measure):
    """J is minus the mean squared error; the score is R², cut off at 0."""

    feature_names = ("bias_below", "bias_above")

    def objective(self, outputs, targets):
        return -(outputs[:, 0] - targets).square().mean()

    def score(self, outputs, targets):
        residual = (outputs[:, 0] - targets).square().mean()
        return (1 - residual / targets.var(correction=0)).clamp(0, 1)

    def features(self, outputs, targets):
        bias = (outputs[:, 0] - targets).mean()
        return torch.stack([(-bias).clamp(0, 1), bias.clamp(0, 1)])


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.norm, self.outer = nn.Linear(10, 16), nn.LayerNorm(16), nn.Linear(16, 1)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.scale * self.outer(nn.functional.gelu(self.norm(self.inner(x)))) + x[:, :1]


class Asymmetric(teachenv.LossFamily):
    """Squared error, over- and underestimates weighted by 1 + a₀ and 1 + a₁; a₂ adds absolute error."""

    coefficient_label = "over, under, absolute"

    def action_size(self, num_outputs, batch_size):
        return 3

    def __call__(self, action, prediction, targets):
        error = prediction.outputs[:, 0] - targets
        weighted = action[0] * error.clamp(min=0).square() + action[1] * error.clamp(max=0).square()
        return error.square().mean() + (weighted + action[2] * error.abs()).mean()


def diabetes():
    x, y = load_diabetes(return_X_y=True)
    x, y = (x / x.std()).astype(np.float32), ((y - y.mean()) / y.std()).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(x))
    pool, test = order[:350], order[350:]
    return teachenv.Task("diabetes", "diabetes", (x[pool], y[pool]), (x[test], y[test]), 1, SquaredError())


DIABETES = diabetes()
OWN = {"task": DIABETES, "student": Residual, "loss": Asymmetric()}
SMALL = {"horizon": 30, "batch_size": 16, "dev_size": 80, "learning_rate": 0.01}


def moons():
    """Classification of 2-D points with the standard measure, and the library's own student and losses."""
    rng = np.random.default_rng(0)
    angle, side = rng.uniform(0, np.pi, 300), np.arange(300) % 2
    points = np.stack([np.cos(angle) * (1 - 2 * side) + side, np.sin(angle) * (1 - 2 * side) + side / 2], 1)
    points = (points + 0.1 * rng.normal(size=points.shape)).astype(np.float32)
    return teachenv.Task("moons", "moons", (points[:200], side[:200]), (points[200:], side[200:]), num_outputs=2)


def test_checkers_have_no_complaint():
    env = teachenv.TeachEnv(**OWN, **SMALL)
    check_env(env, skip_render_check=True)  # objects of one's own cannot go through a spec
    sb3_check_env(env)
    assert env.OBSERVATION_FIELDS == ("progress", "train_accuracy", "dev_accuracy", "bias_below", "bias_above")
    assert env.action_space.shape == (3,)


def test_teaching_it_neutrally_is_regression():
    env = teachenv.TeachEnv(**OWN, **SMALL, render_mode="ansi")
    _, info = env.reset(seed=0)
    assert (info["task"], info["dataset"]) == ("diabetes", "diabetes")
    first, rewards, terminated = info["objective"], [], False
    start, episode = env.student, env.episode
    while not terminated:
        _, reward, terminated, _, info = env.step(np.zeros(3, dtype=np.float32))
        rewards.append(reward)
    assert sum(rewards) == pytest.approx(info["objective"] - first, abs=1e-6)
    assert "over, under, absolute" in env.render()

    module = Residual()
    module.load_state_dict(start.parameters)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    for batch in episode.batches:
        optimizer.zero_grad()
        (module(DIABETES.pool[0][batch])[:, 0] - DIABETES.pool[1][batch]).square().mean().backward()
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(env.student.parameters[name], value, rtol=0, atol=1e-6)
    with torch.no_grad():
        error = (module(DIABETES.test[0])[:, 0] - DIABETES.test[1]).square().mean()
    assert env.evaluate("test")["test_objective"] == pytest.approx(-float(error), abs=1e-5)
    assert 0.2 < env.evaluate("test")["test_accuracy"] < 1


def test_actions_mean_what_the_family_says():
    biases = []
    for action in ([1, -1, 0], [0, 0, 0], [-1, 1, 0]):
        env = teachenv.TeachEnv(**OWN, **SMALL)
        env.reset(seed=0)
        for _ in range(30):
            observation, *_ = env.step(np.array(action, dtype=np.float32))
        below, above = observation[3:]
        biases.append(above - below)
    assert biases[0] < biases[1] < biases[2]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "own", [OWN, {"task": moons(), "loss": "mixture"}, {"task": moons(), "student": lambda: nn.Linear(2, 2)}],
    ids=["diabetes", "moons", "linear"],
)  # fmt: skip
def test_many_students_are_trained_as_single_ones(own, dtype):
    tolerance = 1e-4 if dtype == "float32" else 1e-10
    envs = teachenv.TeachVectorEnv(3, **own, **SMALL, dtype=dtype)
    assert envs.path == "vmap"
    singles = [teachenv.TeachEnv(**own, **SMALL, dtype=dtype) for _ in range(3)]
    envs.reset(seed=0)
    for i, env in enumerate(singles):
        env.reset(seed=i)
    rng = np.random.default_rng(0)
    for _ in range(30):
        actions = rng.uniform(-1, 1, envs.action_space.shape).astype(dtype)
        _, rewards, terminated, _, _ = envs.step(actions)
        alone = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert rewards == pytest.approx([r for _, r, *_ in alone], abs=tolerance)
    assert terminated.all()
    found = envs.evaluate_final("test")["test_objective"]
    assert found == pytest.approx([e.evaluate("test")["test_objective"] for e in singles], abs=tolerance)


def test_a_snapshot_of_it_continues():
    env = teachenv.TeachEnv(**OWN, **SMALL)
    env.reset(seed=0)
    env.step(np.ones(3, dtype=np.float32))
    snapshot = env.get_state()
    expected = env.step(np.ones(3, dtype=np.float32))
    again = teachenv.TeachEnv(**OWN, **SMALL)
    again.set_state(snapshot)
    found = again.step(np.ones(3, dtype=np.float32))
    assert np.array_equal(found[0], expected[0])
    assert found[1:] == expected[1:]
    with pytest.raises(ValueError, match=r"task.*moons"):
        teachenv.TeachEnv(task=moons(), **SMALL).set_state(snapshot)


def test_gym_make_takes_objects_too():
    env = gym.make("TeachDigits-v0", **OWN, **SMALL)
    env.reset(seed=0)
    envs = gym.make_vec("TeachDigits-v0", num_envs=2, **OWN, **SMALL)
    envs.reset(seed=0)
    action = np.full((2, 3), 0.5, dtype=np.float32)
    assert envs.step(action)[1][0] == pytest.approx(env.step(action[0])[1], abs=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_score_that_is_not_finite_ends_the_episode_and_is_never_observed(bad):
    class Fragile(SquaredError):
        def score(self, outputs, targets):
            score = super().score(outputs, targets)
            return torch.where(outputs.new_tensor(len(targets)) == 80, torch.where(score > 0.05, bad, score), score)

    task = teachenv.Task("fragile", "diabetes", DIABETES.pool, DIABETES.test, 1, Fragile())
    settings = OWN | SMALL | {"task": task}
    single, envs = teachenv.TeachEnv(**settings), teachenv.TeachVectorEnv(1, **settings)
    single.reset(seed=0)
    envs.reset(seed=0)
    ended = False
    while not ended:
        observation, reward, ended, _, info = single.step(np.zeros(3, dtype=np.float32))
        _, rewards, terminated, _, infos = envs.step(np.zeros((1, 3), dtype=np.float32))
        assert np.isfinite(observation).all()
        assert terminated.tolist() == [ended]
    assert info["diverged"]
    assert info["student_step"] < 30
    assert reward == rewards[0] == -1
    assert np.isfinite(infos["final_obs"][0]).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": "synthetic"}, ValueError, "no effect with a Task of your own, which brings its data"),
        ({"label_noise": 0.2}, (ValueError, TypeError), "label noise needs"),
        ({"augment": True}, ValueError, "has no augmentation"),
        ({"pool_size": 500}, ValueError, "pool size is 500: expected 1 to 350"),
        (
            {"student": lambda: nn.Linear(10, 2)},
            ValueError,
            r"outputs of shape \(2,\) for a sample, but task 'diabetes' needs \(1,\)",
        ),
        ({"student": lambda: nn.Linear(9, 1)}, ValueError, "fails on inputs of shape"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(changes, error, message):
    with pytest.raises(error, match=message):
        teachenv.TeachEnv(**(OWN | SMALL | changes))
