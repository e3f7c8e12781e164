"""The wrappers: what they record, what they refuse, and that a batch gives what single environments give."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch import nn

import teachenv
from meta import METHODS, ActionGradient, VectorActionGradient
from meta.hypergradients.memory_policies import MEMORY_POLICIES
from teachenv import Task, TeachEnv, TeachVectorEnv

SEEDS = [5, 6, 7]


def task() -> Task:
    rng = np.random.default_rng(0)
    targets = np.arange(90) % 3
    inputs = rng.normal(size=(90, 6)) + 2 * rng.normal(size=(3, 6))[targets]
    return Task("vectors", "made-up", (inputs[:80], targets[:80]), (inputs[80:], targets[80:]), 3)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 3))


class Exploding(nn.Module):
    """A network that diverges in its first step if its initialisation drew a positive `sign`."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.growth = nn.Parameter(torch.zeros(()))
        self.register_buffer("sign", torch.rand(()).sub(0.5).sign())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + 1e200 * self.sign.clamp(min=0) * self.growth * x[:, :3]


def settings(**changes):
    own = {"horizon": 6, "batch_size": 8, "dev_size": 20, "dtype": "float64", "student_kwargs": {}}
    return {"task": task(), **own, **changes}


def actions_for(env, count=None):
    size = env.problem.neutral_action.numel()
    shape = (env.problem.actions, size) if count is None else (env.problem.actions, count, size)
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape)


@pytest.mark.parametrize(
    ("student", "options"),
    [("resnet20", {}), ("wrn", {"depth": 10, "width": 1}), ("densenet", {"depth": 10, "growth": 4})],
)
def test_deep_students_take_taught_steps(student, options, few_images):
    shared = {"task": "synthetic", "pool_size": 24, "dev_size": 8, "batch_size": 4, "horizon": 2, "dtype": "float64"}
    env = TeachEnv(student=student, student_kwargs=options, learning_rate=0.01, **shared)
    actions = actions_for(env)
    exact, close = (
        final_info(ActionGradient(env, method), actions, seed=0)["action_gradient"]
        for method in ("rmd", "finite-difference")
    )
    assert np.abs(exact).max() > 0
    np.testing.assert_allclose(close, exact, rtol=0, atol=1e-4 * np.abs(exact).max())


def final_info(env, actions, seed=None):
    env.reset(seed=seed)
    for action in actions:
        *_, ended, _, info = env.step(action)
    assert np.all(ended)
    return info


TRAININGS = {
    "momentum": {"momentum": 0.9, "weight_decay": 0.01},
    "batch-norm": {"student": with_batch_norm, "steps_per_action": 2},
    "mixture": {"loss": "mixture", "loss_kwargs": {"scale": 0.02}, "lr_schedule": "linear"},
    "dropout": {"student": with_dropout, "loss": "sample-weights"},
    "one-step": {"horizon": 1},
}


@pytest.mark.parametrize(
    ("training", "path", "method"),
    [
        *(("batch-norm", "vmap", method) for method in METHODS),
        *(("dropout", "loop", method) for method in METHODS),  # vmap refuses students that draw random numbers
        *((training, path, "rmd") for training in ("momentum", "mixture", "one-step") for path in ("vmap", "loop")),
        ("batch-norm", "loop", "rmd"),
    ],
)
def test_a_batch_gives_what_single_environments_give(training, path, method):
    options = TRAININGS[training]
    how = {"method": method} | ({"last": 1} if method == "truncated" else {})
    if method == "forward":  # it takes a training for each coordinate of each action
        options = options | {"horizon": min(2, options.get("horizon", 2))}
    batch = VectorActionGradient(TeachVectorEnv(2, path=path, **settings(**options)), **how)
    actions = actions_for(batch.unwrapped, 2)
    for _ in range(2 if method == "rmd" else 1):  # the second episode follows the automatic reset
        info = final_info(batch, actions, SEEDS[:2])
        assert info["_action_gradient"].all()
        for i, seed in enumerate(SEEDS[:2]):
            wanted = final_info(ActionGradient(TeachEnv(**settings(**options)), **how), actions[:, i], seed)
            error = np.abs(info["action_gradient"][i] - wanted["action_gradient"]).max()
            assert error < (1e-12 if method == "rmd" else 1e-6) * np.abs(wanted["action_gradient"]).max()


def test_only_the_step_that_ends_an_episode_has_a_gradient():
    single = ActionGradient(TeachEnv(**settings()))
    batch = VectorActionGradient(TeachVectorEnv(3, **settings()))
    for env, actions in ((single, actions_for(single.unwrapped)), (batch, actions_for(batch.unwrapped, 3))):
        _, info = env.reset(seed=0)
        assert "action_gradient" not in info
        for action in actions[:-1]:
            assert "action_gradient" not in env.step(action)[4]
        assert "action_gradient" in env.step(actions[-1])[4]


@pytest.mark.parametrize("path", ["vmap", "loop"])
def test_a_diverging_student_disturbs_no_other(path):
    options = settings(student=Exploding, learning_rate=0.1)
    single = TeachEnv(**options)
    signs = {}
    for seed in range(20):
        single.reset(seed=seed)
        signs[seed] = single.student.buffers["sign"].item()
    # Students 1 and 2 go on; 0 explodes in its first step, and whoever takes its place may end at another time.
    seeds = [next(s for s in signs if signs[s] > 0), *[s for s in signs if signs[s] < 0][:2]]
    batch = VectorActionGradient(TeachVectorEnv(3, path=path, **options))
    actions = actions_for(batch.unwrapped, 3)
    batch.reset(seed=seeds)
    infos = [batch.step(action)[4] for action in actions]
    lost = next(info for info in infos if "action_gradient" in info)
    assert lost["_action_gradient"].tolist() == [True, False, False]
    assert lost["final_info"]["diverged"][0]
    assert not lost["action_gradient"].any()
    for i in (1, 2):
        assert infos[-1]["_action_gradient"][i]
        wanted = final_info(ActionGradient(TeachEnv(**options)), actions[:, i], seeds[i])["action_gradient"]
        assert np.abs(wanted).max() > 0
        np.testing.assert_allclose(infos[-1]["action_gradient"][i], wanted, rtol=1e-9, atol=1e-15)
    assert np.isfinite(infos[-1]["action_gradient"]).all()


def test_students_that_stand_at_different_steps_are_differentiated_each_at_its_own_end():
    options = settings(student=Exploding, learning_rate=0.1, lr_schedule="linear")
    batch = VectorActionGradient(TeachVectorEnv(4, **options))
    rng = np.random.default_rng(1)
    horizon, size = batch.unwrapped.problem.actions, batch.unwrapped.problem.neutral_action.numel()
    batch.reset(seed=1)
    taken = [[] for _ in range(4)]
    begun = list(batch.unwrapped.episodes.seeds)
    compared, spread = 0, False
    for _ in range(4 * horizon):
        actions = rng.uniform(-0.5, 0.5, (4, size))
        *_, ended, _, info = batch.step(actions)
        spread |= len(set(np.asarray(batch.unwrapped.students.step).tolist())) > 1
        for i in range(4):
            taken[i].append(actions[i])
            if not ended[i]:
                continue
            if not info["final_info"]["diverged"][i] and compared < 6:
                single = ActionGradient(TeachEnv(**options))
                single.reset(seed=0)
                teach = single.unwrapped
                state = teach.get_state()
                state["standing"]["seeds"] = (begun[i],)
                state["standing"]["students"] = teach.dynamics.init(teach.problem.episodes.of(begun[i]))
                teach.set_state(state)
                for action in taken[i]:
                    *_, done, _, one = single.step(action)
                assert done
                np.testing.assert_allclose(info["action_gradient"][i], one["action_gradient"], rtol=1e-9, atol=1e-15)
                compared += 1
            taken[i], begun[i] = [], batch.unwrapped.episodes.seeds[i]
    assert spread
    assert compared == 6


def test_a_diverged_single_student_gets_zeros_for_the_actions_it_took():
    env = ActionGradient(TeachEnv(**settings(student=Exploding)))
    for seed in range(20):
        env.reset(seed=seed)
        *_, terminated, _, info = env.step(actions_for(env.unwrapped)[0])
        if info["diverged"]:
            break
    assert terminated
    assert info["action_gradient"].shape == (1, env.action_space.shape[0])
    assert not info["action_gradient"].any()


def test_a_time_limit_inside_gives_the_gradient_of_the_truncated_return():
    env = ActionGradient(gym.wrappers.TimeLimit(TeachEnv(**settings()), 4))
    short = ActionGradient(TeachEnv(**settings(horizon=4)))
    actions = actions_for(env.unwrapped)[:4]
    env.reset(seed=0)
    for action in actions:
        *_, terminated, truncated, info = env.step(action)
    assert truncated
    assert not terminated
    assert info["action_gradient"].shape == (4, 9)
    assert short.unwrapped.problem.actions == 4

    def value(actions):
        env.unwrapped.reset(seed=0)
        return sum(env.unwrapped.step(a)[1] for a in actions)

    direction = np.random.default_rng(0).normal(size=actions.shape)
    slope = (value(actions + 1e-5 * direction) - value(actions - 1e-5 * direction)) / 2e-5
    assert slope == pytest.approx((info["action_gradient"] * direction).sum(), rel=1e-6)


# --- states that come from elsewhere ----------------------------------------------------------------------------------


def make(vector):
    if vector:
        return VectorActionGradient(TeachVectorEnv(2, **settings()))
    return ActionGradient(TeachEnv(**settings()))


@pytest.mark.parametrize("vector", [False, True])
def test_set_state_in_mid_episode_is_refused_at_the_end(vector):
    env, other = make(vector), make(vector)
    actions = actions_for(env.unwrapped, 2 if vector else None)
    for each, seed in ((env, 0), (other, 10)):
        each.reset(seed=seed)
        for action in actions[:3]:
            each.step(action)
    # As many steps were recorded here as were taken there, but of another episode.
    env.unwrapped.set_state(pickle.loads(pickle.dumps(other.unwrapped.get_state())))
    for action in actions[3:-1]:
        env.step(action)
    with pytest.raises(RuntimeError, match=r"set_state.* to (a state at its|their) start"):
        env.step(actions[-1])
    assert final_info(env, actions, 0)["action_gradient"].any()  # and the next episode is fine


@pytest.mark.parametrize("memory", ["all", "states", "sqrt"])
@pytest.mark.parametrize("method", ["rmd", "truncated"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))], ids=["copy", "pickle"])
@pytest.mark.parametrize("kind", [TeachEnv, TeachVectorEnv])
def test_a_copy_in_mid_episode_has_the_gradient_of_its_own_episode(kind, copied, method, memory):
    last = 3 if method == "truncated" else None
    if kind is TeachEnv:
        env = ActionGradient(TeachEnv(**settings()), method, memory, last)
    else:
        env = VectorActionGradient(TeachVectorEnv(2, **settings()), method, memory, last)
    actions = actions_for(env.unwrapped, None if kind is TeachEnv else 2)
    others = [*actions[:3], *(0.5 * action for action in actions[3:])]
    wanted = [final_info(env, taken, 0)["action_gradient"] for taken in (actions, others)]
    env.reset(seed=0)
    for action in actions[:3]:
        env.step(action)
    for each, taken, gradient in zip((copied(env), env), (others, actions), reversed(wanted), strict=True):
        for action in taken[3:]:
            *_, info = each.step(action)
        np.testing.assert_allclose(info["action_gradient"], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("vector", [False, True])
def test_set_state_at_the_start_or_to_the_present_is_fine(vector):
    env = make(vector)
    actions = actions_for(env.unwrapped, 2 if vector else None)
    wanted = final_info(env, actions, 0)["action_gradient"]
    env.reset(seed=0)
    start = pickle.loads(pickle.dumps(env.unwrapped.get_state()))
    env.reset(seed=1)
    env.step(actions[0])
    env.unwrapped.set_state(start)
    for action in actions[:3]:
        env.step(action)
    env.unwrapped.set_state(env.unwrapped.get_state())
    for action in actions[3:]:
        *_, info = env.step(action)
    np.testing.assert_array_equal(info["action_gradient"], wanted)


@pytest.mark.parametrize("vector", [False, True])
def test_wrapping_in_mid_episode_is_refused_at_the_end(vector):
    inner = make(vector).unwrapped
    actions = actions_for(inner, 2 if vector else None)
    inner.reset(seed=0)
    inner.step(actions[0])
    env = (VectorActionGradient if vector else ActionGradient)(inner)
    for action in actions[1:-1]:
        env.step(action)
    with pytest.raises(RuntimeError, match="whole episode"):
        env.step(actions[-1])


@pytest.mark.parametrize("vector", [False, True])
def test_a_reset_in_mid_episode_forgets_it(vector):
    env = make(vector)
    actions = actions_for(env.unwrapped, 2 if vector else None)
    wanted = final_info(env, actions, 0)["action_gradient"]
    env.reset(seed=3)
    env.step(actions[0])
    np.testing.assert_array_equal(final_info(env, actions, 0)["action_gradient"], wanted)


@pytest.mark.parametrize("memory", ["all", *(name for name, p in MEMORY_POLICIES.items() if p.spacing(1))])
def test_a_reset_mask_leaves_the_gradients_of_the_others_as_they_are(memory):
    """Two of three go on; the third begins anew after two actions and ends two actions later."""
    env, unbroken = (VectorActionGradient(TeachVectorEnv(3, **settings()), memory=memory) for _ in range(2))
    actions = actions_for(env.unwrapped, 3)
    expected = final_info(unbroken, actions, 0)["action_gradient"]
    env.reset(seed=0)
    for action in actions[:2]:
        env.step(action)
    env.reset(seed=10, options={"reset_mask": np.array([False, True, False])})
    for action in actions[2:]:
        info = env.step(action)[-1]
    assert info["_action_gradient"].tolist() == [True, False, True]
    np.testing.assert_allclose(info["action_gradient"][[0, 2]], expected[[0, 2]], rtol=1e-9, atol=1e-12)
    for action in actions[:2]:
        info = env.step(action)[-1]
    assert info["_action_gradient"].tolist() == [False, True, False]
    taken = np.concatenate([actions[2:], actions[:2]])
    fresh = VectorActionGradient(TeachVectorEnv(3, **settings()))
    np.testing.assert_allclose(
        info["action_gradient"][1], final_info(fresh, taken, 10)["action_gradient"][1], rtol=1e-9, atol=1e-12
    )


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_foreign_environments_are_refused():
    with pytest.raises(TypeError, match="ActionGradient needs a TeachEnv, found PendulumEnv"):
        ActionGradient(gym.make("Pendulum-v1"))
    foreign = gym.make_vec("Pendulum-v1", num_envs=2, vectorization_mode="sync")
    with pytest.raises(TypeError, match="VectorActionGradient differentiates a TeachVectorEnv, found SyncVectorEnv"):
        VectorActionGradient(foreign)


@pytest.mark.parametrize("vector", [False, True])
def test_unknown_methods_are_refused_with_a_suggestion(vector):
    wrapper = VectorActionGradient if vector else ActionGradient
    with pytest.raises(ValueError, match=r"unknown method 'RMD'.*did you mean 'rmd'\?"):
        wrapper(make(vector).unwrapped, "RMD")
    with pytest.raises(ValueError, match="found state_dtype='bfloat16' with method=\"forward\", which keeps no states"):
        wrapper(make(vector).unwrapped, "forward", state_dtype="bfloat16")


def test_registered_environments_can_be_wrapped():
    assert teachenv.__version__
    env = ActionGradient(gym.make("TeachDigits-v0", horizon=2))
    info = final_info(env, np.zeros((2, 100), dtype=np.float32), 0)
    assert info["action_gradient"].dtype == np.float32
    assert info["action_gradient"].shape == (2, 100)
    batch = VectorActionGradient(gym.make_vec("TeachDigits-v0", num_envs=2, horizon=2))
    info = final_info(batch, np.zeros((2, 2, 100), dtype=np.float32), 0)
    assert info["action_gradient"].shape == (2, 2, 100)
