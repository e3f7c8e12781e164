import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from torch import nn

import teachenv
import teachenv.tasks.synthetic

B = 3
SMALL = {"horizon": 4, "batch_size": 8, "dev_size": 40}
IMAGES = teachenv.tasks.synthetic.make_synthetic(pool_size=40, test_size=6)
ON_IMAGES = {"task": IMAGES, "horizon": 2, "batch_size": 4, "dev_size": 10}
KEYS = ("objective", "dev_accuracy", "train_accuracy", "train_loss", "learning_rate", "student_step", "diverged")


def normed():
    return nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 10))


def dropped():
    return nn.Sequential(nn.Linear(64, 12), nn.Dropout(0.3), nn.Tanh(), nn.Linear(12, 10))


def value_dependent():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x if x.mean() > 0 else x + 1)

    return Branching(64, 10)


def make(num_envs=B, **kwargs):
    return gym.make_vec("TeachDigits-v0", num_envs=num_envs, **(SMALL | kwargs))


def draw(envs, rng):
    return rng.uniform(-1, 1, envs.action_space.shape).astype(envs.action_space.dtype)


def roll(envs, steps, seed=0):
    rng = np.random.default_rng(seed)
    return [envs.step(draw(envs, rng)) for _ in range(steps)]


def assert_equal(a, b):
    """Nested results are the same, bitwise."""
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, tuple | list) or (isinstance(a, np.ndarray) and a.dtype == object):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_equal(x, y)
    else:
        assert np.array_equal(a, b)


# --- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_make_vec_makes_one_with_batched_spaces(dtype):
    envs = make(dtype=dtype)
    assert isinstance(envs, teachenv.TeachVectorEnv)
    assert envs.num_envs == B
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.action_space == gym.vector.utils.batch_space(envs.single_action_space, B)
    assert envs.observation_space == gym.vector.utils.batch_space(envs.single_observation_space, B)
    single = gym.make("TeachDigits-v0", dtype=dtype, **SMALL)
    assert envs.single_observation_space == single.observation_space
    assert envs.single_action_space == single.action_space
    observations, infos = envs.reset(seed=0)
    results = roll(envs, 5)
    for o in [observations, *(r[0] for r in results)]:
        assert envs.observation_space.contains(o)
    for _, rewards, terminated, truncated, _ in results:
        assert rewards.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        assert rewards.shape == terminated.shape == truncated.shape == (B,)
        assert not truncated.any()
    for found in [infos, *(r[4] for r in results)]:
        for key in (*KEYS, "task", "dataset"):
            assert found[key].shape == (B,)
            assert found[f"_{key}"].tolist() == [True] * B


@pytest.mark.parametrize(
    ("kwargs", "path"),
    [
        ({}, "vmap"),
        ({"path": "loop"}, "loop"),
        ({"student": normed}, "vmap"),
        ({"student": dropped}, "loop"),
        ({"student": value_dependent}, "loop"),
        (ON_IMAGES | {"student": "lenet"}, "loop"),
        (ON_IMAGES | {"student": "lenet", "path": "vmap"}, "vmap"),
        (ON_IMAGES | {"student": "mlp"}, "vmap"),
    ],
)
def test_the_path_is_chosen_by_the_student(kwargs, path):
    assert teachenv.TeachVectorEnv(2, **(SMALL | kwargs)).path == path


def test_a_number_of_actions_of_a_registration_is_refused_with_what_to_write():
    with pytest.raises(TypeError, match=r"max_episode_steps.* is horizon="):
        gym.make_vec("TeachDigits-v0", num_envs=2, max_episode_steps=10)


def test_a_single_student_is_trained_without_vmap_unless_it_is_asked_for():
    assert teachenv.TeachVectorEnv(1, **SMALL).path == "loop"
    assert teachenv.TeachVectorEnv(1, path="vmap", **SMALL).path == "vmap"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"student": dropped, "path": "vmap"}, "its forward pass draws random numbers; use path"),
        ({"student": value_dependent, "path": "vmap"}, 'path="vmap" does not work for this student'),
        ({"path": "vamp"}, "did you mean 'vmap'"),
        ({"num_envs": 0}, "num_envs must be an integer of at least 1, found 0"),
        ({"render_mode": "rgb_array"}, "does not render"),
        ({"horizon": 0}, "horizon must be"),
    ],
)
def test_bad_settings_are_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


def test_bad_actions_seeds_and_order_are_errors_and_change_nothing():
    envs, reference = make(), make()
    neutral = np.zeros(envs.action_space.shape, dtype=np.float32)
    for use in (lambda: envs.step(neutral), envs.evaluate, envs.evaluate_final, lambda: envs.students):
        with pytest.raises(gym.error.ResetNeeded):
            use()
    envs.reset(seed=0)
    reference.reset(seed=0)
    with pytest.raises(gym.error.ResetNeeded, match="no step has been taken"):
        envs.evaluate_final()
    for action, message in (
        (neutral[:2], r"shape \(3, 100\) here, found \(2, 100\)"),
        (neutral[0], r"found \(100,\)"),
        (neutral * np.nan, "contains NaN"),
        (neutral + 2, "found a coordinate of size 2"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.step(action)
    with pytest.raises(TypeError, match="found int64"):
        envs.step(neutral.astype(np.int64))
    with pytest.raises(ValueError, match="one seed for each of 3 students, found 2"):
        envs.reset(seed=[1, 2])
    assert_equal(roll(envs, 5), roll(reference, 5))


# --- the same as single environments ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "tolerance"),
    [
        ({"horizon": 60, "batch_size": 32, "dev_size": 400, "steps_per_action": 3}, 1e-4),
        ({"horizon": 20, "dtype": "float64", "loss": "mixture"}, 1e-10),
        ({"student": normed, "loss": "sample-weights", "lr_schedule": "cosine"}, 1e-4),
        ({"student": dropped, "loss": "bilinear-sigmoid", "label_noise": 0.3, "dev_noise": False}, 1e-4),
        ({"train_on": "pool", "student_kwargs": {"activation": "relu"}, "weight_decay": 0.01}, 1e-4),
        (ON_IMAGES | {"student": "lenet"}, 1e-4),
        (ON_IMAGES | {"student": "resnet8", "dtype": "float64"}, 1e-10),
    ],
    ids=["plain", "float64", "batch-norm", "dropout", "pool", "lenet", "resnet8"],
)
def test_students_are_those_of_single_environments_for_whole_episodes(kwargs, tolerance):
    envs = teachenv.TeachVectorEnv(B, **(SMALL | kwargs))
    kwargs = {key: value for key, value in (SMALL | kwargs).items() if key != "path"}
    singles = [teachenv.TeachEnv(**kwargs) for _ in range(B)]
    observations, infos = envs.reset(seed=10)
    of_singles = [env.reset(seed=10 + i) for i, env in enumerate(singles)]
    rng, actions = np.random.default_rng(0), envs.problem.actions
    # One dev sample may fall the other way when logits tie to within rounding.
    coarse = 1.01 / envs.problem.settings.dev_size if tolerance > 1e-6 else tolerance

    def agree(observation, info, i, single_observation, single_info):
        assert observation[i][:2] == pytest.approx(single_observation[:2], abs=coarse)
        assert observation[i][2] == pytest.approx(single_observation[2], abs=coarse)
        for key in KEYS:
            assert info[key][i] == pytest.approx(single_info[key], abs=coarse if "accuracy" in key else tolerance)

    for i, (o, f) in enumerate(of_singles):
        agree(observations, infos, i, o, f)
    for step in range(1, actions + 1):
        action = draw(envs, rng)
        observations, rewards, terminated, _, infos = envs.step(action)
        of_singles = [env.step(a) for env, a in zip(singles, action, strict=True)]
        last = step == actions
        assert terminated.tolist() == [last] * B
        for i, (o, r, *_, f) in enumerate(of_singles):
            assert rewards[i] == pytest.approx(r, abs=tolerance)
            shown = (infos["final_obs"], infos["final_info"]) if last else (observations, infos)
            agree(*shown, i, o, f)
    assert envs.students.step.tolist() == [0] * B  # the next episode has begun
    for split in ("train", "dev", "pool", "test"):
        found = envs.evaluate_final(split)
        for i, env in enumerate(singles):
            alone = env.evaluate(split)
            assert found[f"{split}_objective"][i] == pytest.approx(alone[f"{split}_objective"], abs=10 * tolerance)
            assert found[f"{split}_accuracy"][i] == pytest.approx(alone[f"{split}_accuracy"], abs=coarse)
    following = [env.reset() for env in singles]
    for i, (o, f) in enumerate(following):
        agree(observations, infos, i, o, f)


def test_seeds_may_be_given_one_by_one_and_some_left_to_continue():
    envs, other = make(), make()
    both = [e.reset(seed=s) for e, s in ((envs, 5), (other, [5, 6, 7]))]
    assert_equal(*both)
    a, b = envs.reset()[0], other.reset(seed=[None, 6, None])[0]
    assert np.array_equal(a[[0, 2]], b[[0, 2]])
    assert np.array_equal(b[1], both[0][0][1])
    assert not np.array_equal(a[1], b[1])


# --- the ends of episodes --------------------------------------------------------------------------------------------


def test_the_last_step_returns_the_next_episodes_beginning_and_the_ended_ones_last_words():
    envs = make()
    envs.reset(seed=0)
    *before, last = roll(envs, 4)
    assert not any(r[2].any() for r in before)
    assert not any("final_obs" in r[4] for r in before)
    observations, _, terminated, _, infos = last
    assert terminated.all()
    assert observations[:, 0].tolist() == [0.0] * B
    assert infos["student_step"].tolist() == [0] * B
    assert infos["train_loss"].tolist() == [0.0] * B
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True] * B
    for final in infos["final_obs"]:
        assert envs.single_observation_space.contains(final)
        assert final[0] == 1.0
    assert infos["final_info"]["student_step"].tolist() == [4] * B
    again = make()
    again.reset(seed=0)
    again.reset()  # the same generators, one episode on
    assert_equal(envs.step(np.zeros(envs.action_space.shape, dtype=np.float32))[:4],
                 again.step(np.zeros(envs.action_space.shape, dtype=np.float32))[:4])  # fmt: skip


def hot(**kwargs):
    """Students that diverge at once, except under weights of zero: those never move."""
    relu = {"student_kwargs": {"activation": "relu"}}
    return {"loss": "sample-weights", "learning_rate": 1e30, "horizon": 6} | relu | kwargs


def test_a_diverging_student_starts_anew_alone():
    envs = make(**hot(divergence_penalty=2.5, lr_schedule="linear"))
    single = gym.make("TeachDigits-v0", **(SMALL | hot(divergence_penalty=2.5, lr_schedule="linear"))).unwrapped
    start, _ = envs.reset(seed=20)
    single.reset(seed=21)
    actions = -np.ones(envs.action_space.shape, dtype=np.float32)  # weights of zero
    actions[1] = 1.0
    ended = False
    steps = 0
    while not ended:
        observations, rewards, terminated, _, infos = envs.step(actions)
        alone, reward, ended, _, info = single.step(actions[1])
        steps += 1
        assert terminated.tolist() == [False, ended, False]
        assert rewards.tolist() == pytest.approx([0.0, reward, 0.0], abs=1e-4)
        assert np.isfinite(observations).all()
    assert steps < 6
    assert rewards[1] == -2.5
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [False, True, False]
    assert infos["final_obs"][0] is None
    assert infos["final_obs"][1] == pytest.approx(alone, abs=0.03)
    assert infos["final_obs"][1][0] == pytest.approx(steps / 6)
    final = infos["final_info"]
    assert final["diverged"].tolist() == [False, True, False]
    assert final["_objective"].tolist() == [False, True, False]
    assert final["objective"][1] == pytest.approx(info["objective"], abs=1e-4)
    assert infos["diverged"].tolist() == [False] * 3
    assert infos["student_step"].tolist() == [steps, 0, steps]
    assert observations[[0, 2], 2].tolist() == start[[0, 2], 2].tolist()
    assert all(np.isfinite(value).all() for value in (*(infos[k] for k in KEYS), *(final[k] for k in KEYS)))

    # Students at different steps: the untouched ones end on time, the new one later, and measures are their own.
    fresh, _ = single.reset()
    assert observations[1] == pytest.approx(fresh, abs=1e-6)
    actions[1] = -1.0
    while not ended or envs.students.step[0] != 0:
        stepped = envs.step(actions)
        _, reward, ended, _, info = single.step(actions[1])
        assert stepped[1][1] == pytest.approx(reward, abs=1e-4)
        assert stepped[4]["learning_rate"][1] == pytest.approx(info["learning_rate"])
        for split in ("train", "dev"):
            measured = single.evaluate(split)[f"{split}_objective"]
            assert envs.evaluate_final(split)[f"{split}_objective"][1] == pytest.approx(measured, abs=1e-6)
        if envs.students.step[0] == 0:
            break
    assert stepped[2].tolist() == [True, False, True]
    assert envs.students.step.tolist() == [0, 6 - steps, 0]


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_students_at_different_steps_train_as_single_ones(path):
    """After one restart alone, rates, minibatches and augmentation are each student's own."""
    settings = ON_IMAGES | {"horizon": 4, "student": "mlp", "student_kwargs": {"hidden": [8]}, "lr_schedule": "linear"}
    settings |= {"loss": "sample-weights", "dtype": "float64", "learning_rate": 0.05}
    envs, single = teachenv.TeachVectorEnv(2, path=path, **settings), teachenv.TeachEnv(**settings)
    envs.reset(seed=0)
    rng = np.random.default_rng(0)
    envs.step(rng.uniform(-1, 1, envs.action_space.shape))
    state = envs.get_state()
    broken = state["standing"]["students"].parameters["1.weight"].clone()
    broken[1] = torch.nan
    state["standing"]["students"].parameters["1.weight"] = broken
    envs.set_state(state)
    _, _, terminated, _, _ = envs.step(rng.uniform(-1, 1, envs.action_space.shape))
    assert terminated.tolist() == [False, True]
    assert envs.students.step.tolist() == [2, 0]
    single.reset(seed=1)
    single.reset()
    for _ in range(2):
        actions = rng.uniform(-1, 1, envs.action_space.shape)
        _, rewards, terminated, _, infos = envs.step(actions)
        _, reward, _, _, info = single.step(actions[1])
        assert rewards[1] == pytest.approx(reward, abs=1e-10)
        assert infos["train_loss"][1] == pytest.approx(info["train_loss"], abs=1e-10)
    assert terminated.tolist() == [True, False]


# --- snapshots -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{}, {"student": dropped}, hot()], ids=["plain", "dropout", "diverging"])
def test_a_snapshot_continues_bitwise_here_and_elsewhere(kwargs):
    envs, other = make(**kwargs), make(**kwargs)
    envs.reset(seed=0)
    roll(envs, 2, seed=1)
    snapshot = envs.get_state()
    copy = pickle.loads(pickle.dumps(snapshot))
    expected = roll(envs, 7, seed=2)
    envs.set_state(snapshot)
    assert_equal(roll(envs, 7, seed=2), expected)
    other.reset(seed=5)
    other.set_state(copy)
    assert_equal(roll(other, 7, seed=2), expected)


def test_a_snapshot_before_the_first_reset_is_one_too():
    envs, other = make(), make()
    envs.reset(seed=0)
    envs.set_state(other.get_state())
    with pytest.raises(gym.error.ResetNeeded):
        envs.step(np.zeros(envs.action_space.shape, dtype=np.float32))
    assert_equal(envs.reset()[0], other.reset()[0])


def test_foreign_snapshots_are_refused_and_nothing_is_changed():
    envs, reference = make(), make()
    single = gym.make("TeachDigits-v0", **SMALL).unwrapped
    foreign = [
        (make(horizon=8), "horizon: 4 there, 8 here"),
        (make(2), "of 3 students"),
        (single, "state of a TeachVectorEnv of 3 students, expected that of a TeachEnv$"),
    ]
    for env in (envs, reference, single, *(f for f, _ in foreign)):
        env.reset(seed=0)
    for env, message in foreign:
        with pytest.raises(ValueError, match=message):
            env.set_state(envs.get_state())
    for snapshot, message in (
        (make(learning_rate=0.3).get_state(), "learning_rate"),
        (make(2).get_state(), "TeachVectorEnv of 2 students, expected that of a TeachVectorEnv of 3 students"),
        (single.get_state(), "the state of a TeachEnv, expected that of a TeachVectorEnv of 3 students"),
        (None, "expected what get_state"),
        ({name: value for name, value in envs.get_state().items() if name != "standing"}, "lacks 'standing': another"),
    ):
        with pytest.raises(ValueError, match=message):
            envs.set_state(snapshot)
    assert_equal(roll(envs, 5), roll(reference, 5))


def test_a_users_network_is_called_at_each_step(monkeypatch):
    """It may decide in Python what a recording would freeze."""
    monkeypatch.setattr("teachenv.recording.CALLS_BEFORE", 0)
    calls = []

    class Counting(nn.Linear):
        def forward(self, x):
            calls.append(self.training)
            return super().forward(x)

    envs = make(student=lambda: Counting(64, 10), path="vmap")
    envs.reset(seed=0)
    calls.clear()
    roll(envs, 2)
    assert calls == [True, False] * 2
