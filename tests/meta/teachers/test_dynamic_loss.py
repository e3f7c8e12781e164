"""L2T-DLN's teacher: its gradient, what the two stages share, its memory, and SB3's model API."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy

import meta
from meta.hypergradients.window_gradient import decoded, encoded
from meta.teachers.dynamic_loss import LSTMPolicy, UpdatePolicy
from teachenv import TeachEnv

POLICIES = tuple(meta.DynamicLossTeacher.policy_aliases)
LEARNED = ("LSTMPolicy", "GRUPolicy", "MemorylessPolicy", "TransformerPolicy")
SMALL = {"horizon": 12, "steps_per_action": 2, "batch_size": 8, "dev_size": 60, "loss": "bilinear"}


def made(window: Any = "next", **settings: Any) -> meta.WindowGradient:
    return meta.WindowGradient(gym.make("TeachDigits-v0", **{**SMALL, **settings}).unwrapped, window)


def teacher_of(policy: str = "LSTMPolicy", env: Any = None, **options: Any) -> meta.DynamicLossTeacher:
    small = {"policy_kwargs": {"hidden": 6}} if policy in LEARNED[:3] else {}
    return meta.DynamicLossTeacher(policy, made() if env is None else env, **{"seed": 0, **small, **options})


class Recorded(BaseCallback):
    """Keeps what each iteration saw, the environment's state before it and the observation, and what came of it."""

    def __init__(self, env: meta.WindowGradient) -> None:
        super().__init__()
        self.env = env
        self.seen: list[tuple[dict[str, Any], Any]] = []
        self.actions: list[np.ndarray] = []
        self.infos: list[dict[str, Any]] = []

    def _on_training_start(self) -> None:
        self.seen.append((self.env.get_state(), self.model._last_obs))  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        self.seen.append((self.env.get_state(), self.model._last_obs))  # type: ignore[attr-defined]
        self.actions.append(self.locals["actions"][0])
        self.infos.append(self.locals["infos"][0])
        return True


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_teaches_and_survives_a_file(policy: str, tmp_path: Path) -> None:
    env = made()
    teacher = teacher_of(policy, env).learn(6)
    assert env.final_state is not None
    teacher.save(tmp_path / "teacher")
    again = meta.DynamicLossTeacher.load(tmp_path / "teacher")
    observation, _ = made().reset(seed=1)
    for state in (None, teacher.predict(observation)[1]):
        action, memory = teacher.predict(observation, state, deterministic=True)
        found, restored = again.predict(observation, state, deterministic=True)
        assert env.action_space.contains(action)
        assert np.abs(action).max() > 0
        np.testing.assert_array_equal(found, action)
        assert all(np.array_equal(a, b) for a, b in zip(memory, restored, strict=True))


@pytest.mark.parametrize("policy", LEARNED)
def test_learning_changes_those_that_learn(policy: str) -> None:
    teacher = teacher_of(policy)
    before = [p.clone() for p in teacher.policy.parameters()]
    teacher.learn(4)
    assert all(not torch.equal(a, b) for a, b in zip(before, teacher.policy.parameters(), strict=True))


@pytest.mark.parametrize("bptt", [1, 3])
def test_the_gradient_is_that_of_the_error_after_the_second_stage(bptt: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Differences of the windows' errors, each window from the student it had, with memory and action followed."""
    env = made(dtype="float64", objective="likelihood", loss_kwargs={"scale": 1.0})
    teacher = teacher_of(env=env, bptt=bptt, policy_kwargs={"hidden": 4, "step_size": 0.05}, learning_rate=0.0)
    recorded = Recorded(env)
    gradients: list[list[torch.Tensor]] = []
    monkeypatch.setattr(
        teacher, "_follow", lambda _: gradients.append([p.grad.clone() for p in teacher.policy.parameters()])
    )
    teacher.learn(bptt, callback=recorded)
    policy = teacher.policy
    assert isinstance(policy, UpdatePolicy)

    def error() -> float:
        memory, total = None, 0.0
        with torch.no_grad():
            for start, shown in recorded.seen[:bptt]:
                action, memory = policy(torch.as_tensor(shown), memory)
                env.set_state(start)
                total += env.step(action[0].numpy())[-1]["window_error"]
        return total / bptt

    rng = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=rng, dtype=torch.float64) for p in policy.parameters()]
    errors = []
    for size in (1e-4, -2e-4):
        with torch.no_grad():
            for p, d in zip(policy.parameters(), direction, strict=True):
                p.add_(d, alpha=size)
        errors.append(error())
    slope = (errors[0] - errors[1]) / 2e-4
    found = sum(float((g * d).sum()) for g, d in zip(gradients[0], direction, strict=True))
    assert abs(slope) > 1e-5
    assert found == pytest.approx(slope, rel=1e-4)


def test_every_parameter_of_the_lstm_has_a_gradient() -> None:
    """From the second iteration on, when there is something to remember."""
    teacher = teacher_of(policy_kwargs={"hidden": 64})
    teacher.learn(2)
    for name, p in teacher.policy.named_parameters():
        assert p.grad is not None
        assert p.grad.any(), name


def test_a_teacher_that_says_nothing_leaves_both_stages_equal() -> None:
    env = made(loss="dynamic-network")
    teacher, recorded = teacher_of(env=env), Recorded(env)
    with torch.no_grad():
        for p in teacher.policy.parameters():
            p.zero_()
    teacher.learn(1, callback=recorded)
    assert not recorded.actions[0].any()
    assert recorded.infos[0]["previewed_error"] == recorded.infos[0]["window_error"]


def test_steps_of_no_size_are_training_under_the_fixed_loss() -> None:
    env, plain = made(), gym.make("TeachDigits-v0", **SMALL).unwrapped
    recorded = Recorded(env)
    teacher_of(env=env, policy_kwargs={"step_size": 1e-37}).learn(6, callback=recorded)
    assert isinstance(plain, TeachEnv)
    assert env.final_state is not None
    plain.set_state(recorded.seen[0][0]["environment"])
    for _ in range(6):
        plain.step(np.zeros(100, np.float32))
    expected = env.final_state["standing"]["students"].parameters
    assert all(torch.equal(p, expected[n]) for n, p in plain.student.parameters.items())


def test_gradient_descent_on_the_losss_weights() -> None:
    """The SGD teacher: from action to action by −γ times the gradient that was shown, cut off at the box."""
    env = made()
    recorded = Recorded(env)
    teacher_of("SGDPolicy", env, policy_kwargs={"step_size": 40.0}).learn(5, callback=recorded)
    last, edges = np.zeros(100), 0
    for (_, shown), action in zip(recorded.seen, recorded.actions, strict=False):
        last = (last - 40.0 * decoded(torch.tensor(shown[0])).numpy()).clip(-1, 1)
        np.testing.assert_allclose(action, last, atol=1e-4)
        edges += int((np.abs(action) == 1).sum())
    assert edges > 0


def test_a_new_student_begins_with_the_fixed_loss() -> None:
    env = made(horizon=4)
    recorded = Recorded(env)
    teacher = teacher_of("MemorylessPolicy", env, policy_kwargs={"step_size": 0.1, "hidden": 6})
    teacher.learn(4, callback=recorded)
    sizes = [np.abs(action).max() for action in recorded.actions]
    assert sizes[0] < 0.1 >= sizes[2]
    assert sizes[1] > sizes[0]


def test_predicting_along_an_episode_is_what_learning_does_at_rate_zero() -> None:
    env, other = made(), made()
    recorded = Recorded(env)
    teacher = teacher_of(env=env, learning_rate=0.0)
    teacher.learn(6, callback=recorded)
    other.reset(seed=0)
    other.set_state(recorded.seen[0][0])
    observation, state = recorded.seen[0][1][0], None
    for action in recorded.actions:
        found, state = teacher.predict(observation, state, deterministic=True)
        np.testing.assert_allclose(found, action, atol=1e-7)
        observation = other.step(action)[0]


def test_a_start_within_a_batch_forgets_for_that_environment_alone() -> None:
    teacher = teacher_of()
    observations = np.stack([made().reset(seed=s)[0] for s in (0, 1)])
    _, state = teacher.predict(observations)
    action, _ = teacher.predict(observations, state, episode_start=np.array([True, False]))
    fresh, _ = teacher.predict(observations)
    continued, _ = teacher.predict(observations, state)
    np.testing.assert_allclose(action[0], fresh[0], atol=1e-7)
    np.testing.assert_allclose(action[1], continued[1], atol=1e-7)
    assert not np.allclose(fresh[1], continued[1], atol=1e-7)


def test_sb3s_evaluation_takes_it() -> None:
    env = made()
    mean, _ = evaluate_policy(teacher_of(env=env), env, n_eval_episodes=2, warn=False)
    assert np.isfinite(mean)


@pytest.mark.parametrize("bptt", [1, 2])
def test_an_interrupted_training_goes_on_bitwise(bptt: int, tmp_path: Path) -> None:
    """In the middle of an episode: the student, the action, the memory and Adam are all in the checkpoint."""
    whole = made()
    expected = teacher_of(env=whole, bptt=bptt).learn(8)
    first = teacher_of(env=made(), bptt=bptt)
    first.learn(4)
    first.save(tmp_path / "teacher")
    env = made()
    second = meta.DynamicLossTeacher.load(tmp_path / "teacher", env=env)
    assert second.num_timesteps == 4
    second.learn(4, reset_num_timesteps=False)
    pairs = zip(expected.policy.parameters(), second.policy.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert all(torch.equal(a, b) for a, b in zip(expected._memory, second._memory, strict=True))
    ends = [e.final_state["standing"]["students"].parameters for e in (whole, env)]  # type: ignore[index]
    assert all(torch.equal(p, ends[1][n]) for n, p in ends[0].items())


def test_memory_does_not_grow() -> None:
    """Thirty iterations of one episode: no graph is kept from one to the next."""
    counts = []

    class Count(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps in (10, 20, 30):
                gc.collect()
                counts.append(sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()))
            return True

    teacher_of(env=made(horizon=72)).learn(30, callback=Count())
    assert len(counts) == 3
    assert max(counts) - counts[0] <= 4


def test_several_environments_teach_one_teacher() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    envs = DummyVecEnv([lambda: made(), lambda: made(horizon=8)])
    teacher = teacher_of(env=envs)
    teacher.learn(16)
    assert teacher.num_timesteps == 16
    assert teacher._episode_num == 3


def test_steps_without_their_mean_and_of_one_length() -> None:
    env = made()
    observation, _ = env.reset(seed=0)
    moves = {}
    for options in ((), ("centred",), ("normalised",), ("centred", "normalised")):
        chosen = {"hidden": 6, "step_size": 1e-2, **dict.fromkeys(options, True)}
        moves[options] = teacher_of(env=env, policy_kwargs=chosen).predict(observation)[0]
    raw = moves[()]
    assert abs(raw.mean()) > 0.5 * np.sqrt(np.mean(raw**2))  # what centring is for
    centred = raw - raw.mean()
    np.testing.assert_allclose(moves["centred",], centred, atol=1e-8)
    for found, plain in ((moves["normalised",], raw), (moves["centred", "normalised"], centred)):
        np.testing.assert_allclose(found, 1e-2 * plain / np.sqrt(np.mean(plain**2)), rtol=1e-4, atol=1e-8)


def test_students_together_have_one_loss_that_their_mean_gradient_moves() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    singles = [made(dtype="float64") for _ in range(2)]
    teacher = teacher_of(
        "SGDPolicy", DummyVecEnv([lambda e=e: e for e in singles]), together=True, policy_kwargs={"step_size": 1.0}
    )
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    class Seen(BaseCallback):
        def _on_step(self) -> bool:
            shown = np.stack([info["previewed_gradient"] for info in self.locals["infos"]])
            seen.append((self.locals["actions"], shown))
            return True

    teacher.learn(6, callback=Seen())
    assert np.abs(np.diff(seen[0][1], axis=0)).max() > 1e-4  # the students differ
    last = np.zeros(100)
    for actions, gradients in seen:
        for action in actions:
            np.testing.assert_allclose(action, last - gradients.mean(0), rtol=1e-6, atol=1e-9)
        last = actions[0]


def test_a_student_that_diverges_spoils_nothing() -> None:
    env = made(learning_rate=1e30, student_kwargs={"activation": "relu"}, horizon=50)
    teacher = teacher_of(env=env, policy_kwargs={"hidden": 6, "step_size": 0.1})
    teacher.learn(60)
    assert all(p.isfinite().all() for p in teacher.policy.parameters())


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="bptt must be an integer of at least 1, found 0"):
        teacher_of(bptt=0)
    with pytest.raises(ValueError, match="max_grad_norm must be a finite number above 0"):
        teacher_of(max_grad_norm=-1.0)
    with pytest.raises(ValueError, match="step_size must be a finite number above 0, found 0"):
        teacher_of(policy_kwargs={"step_size": 0})
    plain = gym.make("TeachDigits-v0", **SMALL)
    with pytest.raises(ValueError, match=r"wrap the environment in meta\.WindowGradient"):
        LSTMPolicy(plain.observation_space, plain.action_space, lambda _: 0.1)
    with pytest.raises(ValueError, match="unknown policy 'LstmPolicy'"):
        meta.DynamicLossTeacher("LstmPolicy", made())


def test_encoding_is_read_coordinate_by_coordinate() -> None:
    """The first half of an observation holds all sizes: coordinate i is read from places i and n + i."""
    teacher = teacher_of("SGDPolicy", policy_kwargs={"step_size": 1.0})
    gradient = torch.zeros(100)
    gradient[7] = 0.25
    action, _ = teacher.predict(encoded(gradient).numpy())
    assert np.flatnonzero(action).tolist() == [7]
    assert action[7] == pytest.approx(-0.25, rel=1e-5)


@pytest.mark.parametrize("carry", [False, True])
def test_the_loss_goes_on_from_one_training_to_the_next_if_it_is_carried(carry: bool) -> None:
    single = gym.make("TeachDigits-v0", **{**SMALL, "steps_per_action": 12, "dtype": "float64"}).unwrapped
    env = meta.WindowGradient(single, carry=carry)
    teacher, followed = teacher_of("SGDPolicy", env, policy_kwargs={"step_size": 1e-3}), Recorded(env)
    teacher.learn(3, followed)
    last = np.zeros_like(followed.actions[0])
    for action, (state, seen) in zip(followed.actions, followed.seen[:-1], strict=True):
        env.set_state(state)
        begun = torch.from_numpy(last if carry else np.zeros_like(last))
        shown = env.through(single.student, begun)[1]  # type: ignore[attr-defined]
        np.testing.assert_allclose(decoded(torch.from_numpy(seen[0])), shown, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(action, begun - 1e-3 * shown, rtol=1e-5, atol=1e-8)
        assert np.abs(action).max() > 0
        last = action
