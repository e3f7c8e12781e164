"""Gradient teachers under wrappers: the chain rule where it is known, a refusal by name where it is not."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers as w
from gymnasium.wrappers import vector as v
from stable_baselines3.common.vec_env import DummyVecEnv

import meta
from teachenv import TeachEnv, TeachVectorEnv

Wrap = Callable[[Any], Any]
SETTINGS: dict[str, Any] = {
    "task": "digits",
    "horizon": 3,
    "dtype": "float64",
    "learning_rate": 0.3,
    "batch_size": 8,
    "dev_size": 50,
}


def base(**changes: Any) -> TeachEnv:
    return TeachEnv(**SETTINGS | changes)


class Flip(gym.ActionWrapper[Any, Any, Any]):
    def action(self, action: np.ndarray) -> np.ndarray:
        return -action


class Sneaky(gym.Wrapper[Any, Any, Any, Any]):
    def step(self, action: np.ndarray) -> Any:
        return self.env.step(0.5 * action)


class Own(w.RescaleAction):
    def action(self, action: np.ndarray) -> Any:
        return super().action(action) ** 3


class VectorFlip(gym.vector.VectorActionWrapper):
    def actions(self, actions: np.ndarray) -> np.ndarray:
        return -actions


KNOWN: dict[str, Wrap] = {
    "rescale": lambda env: w.RescaleAction(env, -2.0, 2.0),
    "rescale-uneven": lambda env: w.RescaleAction(env, np.float64(-1.0), np.float64(3.0)),
    "clip": w.ClipAction,
    "clip-then-rescale": lambda env: w.ClipAction(w.RescaleAction(env, -0.5, 0.5)),
    "two-rescales": lambda env: w.RescaleAction(w.RescaleAction(env, -2.0, 2.0), -1.0, 1.0),
}
HARMLESS: dict[str, Wrap] = {
    "time-limit": lambda env: w.TimeLimit(env, 2),
    "observation": lambda env: w.TransformObservation(env, lambda o: 0 * o, env.observation_space),
    "normalized": w.NormalizeObservation,
    "stack": lambda env: w.FrameStackObservation(env, 2),
    "statistics": w.RecordEpisodeStatistics,
}
REFUSED: dict[str, Wrap] = {
    "TransformAction": lambda env: w.TransformAction(env, lambda a: 0.5 * a, env.action_space),
    "Flip": Flip,
    "Own": lambda env: Own(env, -1.0, 1.0),
    "StickyAction": lambda env: w.StickyAction(env, 0.5),
    "DiscretizeAction": lambda env: w.DiscretizeAction(env, bins=2, multidiscrete=True),
    "MaxAndSkipObservation": w.MaxAndSkipObservation,
    "Autoreset": w.Autoreset,
    "TransformReward": lambda env: w.TransformReward(env, lambda r: -r),
    "NormalizeReward": w.NormalizeReward,
}
if not hasattr(w, "DiscretizeAction"):  # Gymnasium has it from 1.2 on
    del REFUSED["DiscretizeAction"]


def ended(env: Any, actions: np.ndarray) -> dict[str, Any]:
    env.reset(seed=0)
    for action in actions:
        *_, terminated, truncated, info = env.step(action)
        if terminated or truncated:
            break
    return info


def difference(make: Callable[[], Any], actions: np.ndarray, t: int, i: int) -> float:
    values = []
    for sign in (1e-5, -1e-5):
        moved = actions.copy()
        moved[t, i] += sign
        values.append(ended(make(), moved)["objective"])
    return float(values[0] - values[1]) / 2e-5


@pytest.mark.parametrize("wrap", [*KNOWN.values(), *HARMLESS.values()], ids=[*KNOWN, *HARMLESS])
def test_the_action_gradient_is_that_of_the_action_as_it_is_taken(wrap: Wrap) -> None:
    actions = np.random.default_rng(0).uniform(-0.45, 0.45, (3, 100))
    actions[0, :2] = 1.4, -1.4  # beyond the bounds of what clips
    if not isinstance(wrap(base()), w.ClipAction):
        actions[0, :2] = 0.4
    found = ended(meta.ActionGradient(wrap(base())), actions)["action_gradient"]
    for t, i in ((0, 0), (0, 7), (1, 55)):
        assert found[t, i] == pytest.approx(difference(lambda: wrap(base()), actions, t, i), rel=1e-5, abs=1e-9)
    if isinstance(wrap(base()), w.ClipAction):
        assert found[0, :2].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("single", "many"),
    [
        (KNOWN["rescale"], lambda env: v.RescaleAction(env, -2.0, 2.0)),
        (KNOWN["clip"], v.ClipAction),
        (KNOWN["two-rescales"], lambda env: v.RescaleAction(v.RescaleAction(env, -2.0, 2.0), -1.0, 1.0)),
    ],
    ids=["rescale", "clip", "two-rescales"],
)
def test_a_wrapped_batch_gives_what_wrapped_single_environments_give(single: Wrap, many: Wrap) -> None:
    actions = np.random.default_rng(0).uniform(-0.9, 0.9, (3, 2, 100))
    batch = meta.VectorActionGradient(many(TeachVectorEnv(2, **SETTINGS)))
    batch.reset(seed=[0, 0])
    for action in actions:
        info = batch.step(action)[4]
    for i in range(2):
        wanted = ended(meta.ActionGradient(single(base())), actions[:, i])["action_gradient"]
        np.testing.assert_allclose(info["action_gradient"][i], wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", REFUSED)
def test_wrappers_of_unknown_derivative_are_refused_by_name(name: str) -> None:
    for build in (meta.ActionGradient, lambda env: meta.RMD("AttentionPolicy", env)):
        with pytest.raises(ValueError, match=f"^{name} ") as refused:
            build(REFUSED[name](base()))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrap", [VectorFlip, v.NormalizeReward], ids=["VectorFlip", "NormalizeReward"])
def test_vector_wrappers_of_unknown_derivative_are_refused_by_name(wrap: Wrap) -> None:
    with pytest.raises(ValueError, match=f"^{wrap.__name__} "):
        meta.VectorActionGradient(wrap(TeachVectorEnv(2, **SETTINGS)))


def test_a_wrapper_that_changes_actions_in_its_step_is_noticed() -> None:
    env = meta.ActionGradient(Sneaky(base()))
    env.reset(seed=0)
    with pytest.raises(RuntimeError, match="Sneaky"):
        env.step(np.full(100, 0.3))


def test_wrappers_that_only_look_at_other_actions_are_refused_too() -> None:
    with pytest.raises(ValueError, match=r"^Flip "):
        meta.WindowGradient(Flip(base()))
    pair = TeachEnv(task="digits", horizon=2, loss="distillation", teacher="mlp")
    with pytest.raises(ValueError, match=r"^RescaleAction "):
        meta.InfluenceTeaching(w.RescaleAction(pair, np.float32(-2.0), np.float32(2.0)))


@pytest.mark.parametrize("kind", ["single", "vec"])
@pytest.mark.parametrize("wrap", [KNOWN["rescale"], Flip], ids=["RescaleAction", "Flip"])
def test_teachers_refuse_what_changes_actions_outside_of_the_gradient(kind: str, wrap: Wrap) -> None:
    def make() -> Any:
        return wrap(meta.ActionGradient(base()))

    with pytest.raises(ValueError, match=r"put meta\.ActionGradient outside"):
        meta.RMD("AttentionPolicy", make() if kind == "single" else DummyVecEnv([make]))


def test_rewards_may_be_changed_outside_of_the_gradient() -> None:
    info = ended(w.TransformReward(meta.ActionGradient(base()), lambda r: -r), np.zeros((3, 100)))
    expected = ended(meta.ActionGradient(base()), np.zeros((3, 100)))
    np.testing.assert_array_equal(info["action_gradient"], expected["action_gradient"])


TAUGHT: dict[str, Wrap] = {
    "rescale": lambda env: w.RescaleAction(env, np.float32(-2.0), np.float32(2.0)),
    "clip": w.ClipAction,
    "stack": HARMLESS["stack"],
}


@pytest.mark.parametrize("wrap", TAUGHT.values(), ids=TAUGHT)
def test_rmd_sees_what_the_wrapper_shows_and_raises_the_return(wrap: Wrap) -> None:
    def env() -> Any:
        return wrap(base(horizon=6, dtype="float32"))

    teacher = meta.RMD("AttentionPolicy", env(), seed=0, learning_rate=5e-2)
    assert teacher.observation_space == env().observation_space
    bounds = 1.0 if isinstance(env(), w.ClipAction) else env().action_space.high[0]
    assert np.all(teacher.action_space.high == bounds)

    def mean_return() -> float:
        returns = []
        for seed in range(2):
            one = env()
            observation, info = one.reset(seed=seed)
            before, over = info["objective"], False
            while not over:
                action = teacher.predict(observation, deterministic=True)[0]
                observation, _, over, _, info = one.step(action)
            returns.append(info["objective"] - before)
        return float(np.mean(returns))

    untaught = mean_return()
    teacher.learn(72)
    assert mean_return() > untaught + 0.005


def test_a_teacher_learns_the_same_action_in_a_rescaled_box() -> None:
    """One update moves the actor along the gradient in its own units, whatever the box is called."""
    found = []
    for wrap in (lambda env: env, KNOWN["rescale"]):
        teacher = meta.RMD("AttentionPolicy", wrap(base()), seed=0).learn(3)
        found.append([p.detach().numpy() for p in teacher.policy.parameters()])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
